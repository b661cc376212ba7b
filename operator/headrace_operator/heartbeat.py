"""The heartbeat: every object once an interval, whatever the watches say, evenly spread over the interval.

All at once would make each object wait for all others, and the pods' servers hear nothing and then everybody.
"""

import asyncio
from collections.abc import Callable, Sequence

from headrace_operator.work_queue import Key

SHORTEST_PAUSE = 0.01  # seconds; below that, several objects go together


async def beat(keys: Sequence[Key], mark: Callable[[Key], None], interval: float) -> None:
    """One round, which takes `interval` seconds, or as long as the marking itself when that is more."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, key in enumerate(keys):
        early = began + interval * number / len(keys) - loop.time()
        if early >= SHORTEST_PAUSE:
            await asyncio.sleep(early)
        mark(key)
    await asyncio.sleep(max(0.0, began + interval - loop.time()))
