"""Requests that came while no replica was ready: how many are held, for how long, and in which order they go on.

Bounded by requests and by seconds: a router that takes everything in loses everything at once. Callers take turns, so
that one who sends a thousand does not stand before everybody else's one.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from headrace_router.values import Reason, Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Held:
    request: str
    since: float  # seconds


class Holding:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._callers: OrderedDict[str, deque[Held]] = OrderedDict()  # the first is whose turn it is
        self._where: dict[str, str] = {}  # request -> caller

    def __len__(self) -> int:
        return len(self._where)

    def take(self, request: str, caller: str, now: float, ready_in: float) -> Refusal | None:
        """`ready_in`: seconds until a replica is expected, for whom is refused. None: it is held."""
        if len(self) >= self._limits.requests:
            return Refusal(
                Reason.TOO_MANY_HELD,
                ready_in,
                f"no replica is ready, and {len(self)} requests are held already, the most that this router holds",
            )
        self._callers.setdefault(caller, deque()).append(Held(request, now))
        self._where[request] = caller
        return None

    def leave(self, request: str) -> None:
        """It was answered, or its client is gone; nothing to do for one that is not held."""
        caller = self._where.pop(request, None)
        if caller is None:
            return
        kept = deque(held for held in self._callers[caller] if held.request != request)
        if kept:
            self._callers[caller] = kept
        else:
            del self._callers[caller]

    def next(self) -> str | None:
        """The request whose turn it is, which is held no longer."""
        if not self._callers:
            return None
        caller, queue = self._callers.popitem(last=False)
        held = queue.popleft()
        if queue:
            self._callers[caller] = queue  # behind everybody else
        del self._where[held.request]
        return held.request

    def too_long(self, now: float) -> Iterator[str]:
        """Requests whose time is over; the caller of this takes each out by `leave`."""
        late = [
            held.request
            for queue in self._callers.values()
            for held in queue
            if now - held.since >= self._limits.seconds
        ]
        yield from late

    def oldest_seconds(self, now: float) -> float:
        return max((now - queue[0].since for queue in self._callers.values()), default=0.0)
