"""Routers before the replicas: whom they hold while none is ready, whom they refuse, which replica they pick.

As router/headrace_router/pick has it, held to it by tests/contract/test_simulated_router.py. A request comes to one of
them by chance; all are of one caller, and each begins unlike all others. Here a router knows at once what another one
sent: in truth it hears of that within a quarter of a second. Shares, copies and ejections are left out.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from headrace_operator.decide.values import RouterSample
from headrace_operator.routing_fields import Hold
from headrace_operator.simulate.traces import Request

FILL = 2  # requests for each place of a batch, up to which those who are held go on
MOST_ABOVE_MEAN, SLACK = 1.25, 1  # times its share, and requests more, that a replica may have for a prompt's beginning


@dataclass(frozen=True, slots=True)
class Routers:
    number: int = 2
    hold: Hold = field(default_factory=Hold)  # of each


@dataclass(slots=True, eq=False)
class Router:
    most: float  # requests that it holds
    seconds: float  # for which it holds one
    fill: float = FILL  # requests for each place
    held: deque[tuple[float, Request]] = field(default_factory=deque)  # since when and who, the oldest first

    def take(self, request: Request, now: float) -> bool:
        """False: it holds as many as it may."""
        if len(self.held) >= self.most:
            return False
        self.held.append((now, request))
        return True

    def too_late(self, now: float) -> Iterator[tuple[float, Request]]:
        """Those whose time is over, who are held no longer."""
        while self.held and self.held[0][0] + self.seconds <= now:
            yield self.held.popleft()

    def sample(self, now: float) -> RouterSample:
        return RouterSample(len(self.held), now - self.held[0][0] if self.held else 0.0)


def made(routers: Routers | None) -> tuple[Router, ...]:
    """None: a Service, whose clients try until somebody serves them."""
    if routers is None:
        return (Router(math.inf, math.inf, math.inf),)
    return tuple(Router(routers.hold.requests, routers.hold.timeout) for _ in range(routers.number))


def allowed(insides: Sequence[int], slots: int) -> list[int]:
    """Places in `insides`, the requests of each replica: of those it is the prompt's beginning that decides."""
    waits = [max(0, inside + 1 - slots) for inside in insides]
    least, fair = min(waits), MOST_ABOVE_MEAN * (sum(insides) + 1) / (len(insides) * slots)
    bound = math.ceil(fair * slots) + SLACK
    return [place for place, inside in enumerate(insides) if waits[place] == least and inside < bound]
