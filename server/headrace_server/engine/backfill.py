"""What offline work may do without online requests feeling it. A request that comes finds a step that computes, and the
one that follows it; so offline work may make neither much longer.

    in a gap   nobody online is in the step: all places, and prompts as far as the step stays short. If online requests
               have come lately, no such step is planned ahead: who comes waits for one of them and not for two.
    beside     online requests are: a share of the seconds of their steps, the smaller the fewer places are free. In a
               burst there are none, and whatever it takes longer, all who wait would pay for.
    contested  online requests want more than a token each: what the reserve owes, reserve.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace_server.engine.pace import SMALLEST, PrefillPace
from headrace_server.engine.plan import Plan
from headrace_server.request import Priority

QUIET = 1.0  # seconds without online work after which nobody is expected to come the next moment
LONGEST = 0.02  # seconds of offline prompts in a step then
IN_A_GAP = 0.5  # before, they may take this share of a usual step
BESIDE = 0.04  # share of the seconds of online steps, if all places were free
SAVED = 0.1  # times a usual step that may be saved up for one that is longer


@dataclass(frozen=True, slots=True)
class Room:
    """For offline work in one step."""

    tokens: int  # all of them
    decoding: int  # of them, those of sequences that decode
    prompts: Callable[[int], int]  # prompt tokens that the whole step may hold, after so much context
    owed: bool = False  # only what the reserve opens may begin


class Backfill:
    """Pure: the caller brings the clock, the pace knows the seconds."""

    def __init__(self, pace: PrefillPace) -> None:
        self._pace = pace
        self._online_at = -QUIET  # when there was online work last
        self._seconds = 0.0  # that the next step of online work may take longer

    def online(self, now: float) -> None:
        """There is online work."""
        self._online_at = now

    def quiet(self, now: float) -> bool:
        return now - self._online_at >= QUIET

    def in_a_gap(self, plan: Plan, now: float, left: int) -> Room:
        """`left`: tokens of the step."""
        return Room(left, left, partial(self._short, plan, self.quiet(now)))

    def beside(self, plan: Plan, unused: float, left: int) -> Room:
        """`unused`: share of the places in which nobody online runs. Nothing before the pace has seen what it costs."""
        online, pace = plan.decoding, self._pace
        usual, each, token = pace.usual(online), pace.sequence_cost(online), pace.token_cost(0)
        if usual is None or each is None or token is None or not pace.is_proven(online):
            return Room(0, 0, lambda _: 0)
        self._seconds = min(self._seconds + BESIDE * usual * unused, SAVED * usual)

        def prompts(context: int) -> int:
            seconds = self._seconds - self._cost(plan, online)
            tokens = _afforded(seconds, pace.token_cost(context) or token, left)
            return plan.known_tokens + tokens if tokens >= SMALLEST else 0

        return Room(left, _afforded(self._seconds, each, left), prompts)

    def taken(self, plan: Plan, online: int) -> None:
        """The step is planned, and beside so many of online work there is what offline work took."""
        self._seconds -= self._cost(plan, online)

    def _cost(self, plan: Plan, online: int) -> float:
        """Seconds that offline work adds to the step."""
        decoders = plan.decoding - online
        prompts = plan.tokens[Priority.BATCH] - decoders
        each, token = self._pace.sequence_cost(online), self._pace.token_cost(0)
        return decoders * (each or 0.0) + prompts * (token or 0.0)

    def _short(self, plan: Plan, quiet: bool, context: int) -> int:
        usual = self._pace.usual(plan.decoding)
        seconds = LONGEST if quiet else IN_A_GAP * (usual or 0.0)
        return min(self._pace.prefill_tokens(plan.decoding, context), self._pace.within(seconds, context))


def _afforded(seconds: float, cost: float, most: int) -> int:
    """How many that cost so much each."""
    return most if cost * most <= seconds else max(0, int(seconds / cost))
