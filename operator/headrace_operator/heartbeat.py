"""The heartbeat: every object once an interval, whatever the watches say, evenly spread over the interval.

All at once would make each object wait for all others, and the pods' servers hear nothing and then everybody.
"""

import asyncio
from collections.abc import Callable, Sequence

from headrace_operator.pace import Pace
from headrace_operator.work_queue import Key

SHORTEST_PAUSE = 0.01  # seconds; below that, several objects go together

Mark = Callable[[Key], None]


async def beat(keys: Sequence[Key], mark: Mark, interval: float) -> None:
    """One round, which takes `interval` seconds, or as long as the marking itself when that is more."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, key in enumerate(keys):
        early = began + interval * number / len(keys) - loop.time()
        if early >= SHORTEST_PAUSE:
            await asyncio.sleep(early)
        mark(key)
    await asyncio.sleep(max(0.0, began + interval - loop.time()))


async def calm_round(pace: Pace, keys: Sequence[Key], mark: Mark) -> None:
    """One round of all that are not alert when it is their turn."""

    def mark_if_calm(key: Key) -> None:
        if key not in pace.alert:
            mark(key)

    await beat(keys, mark_if_calm, pace.calm_seconds(len(keys)))


async def alert_round(pace: Pace, known: int, mark: Mark) -> None:
    """One round of those that are alert, of `known` objects altogether."""
    await beat(sorted(pace.alert), mark, pace.alert_seconds(known))
