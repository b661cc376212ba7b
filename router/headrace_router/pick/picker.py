"""All that one router knows, and what follows from it for each request: where to, wait here, or no.

Every method takes `now` in seconds, on one clock. What is answered later, because the request is held, comes out of
`released`: whoever changed something asks for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace_router.pick.busy import Busy
from headrace_router.pick.choose import choose
from headrace_router.pick.ejection import Ejections
from headrace_router.pick.holding import Holding, Limits
from headrace_router.values import Asked, Endpoint, Load, Pick, Reason, Refusal

FILL = (
    2  # requests for each place of a replica's batch, up to which held requests go on: what it computes, and the next
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be held, and what who is refused is told."""

    held: Limits
    start_seconds: float  # until a replica is there, when none is


class Picker:
    def __init__(self, terms: Terms) -> None:
        self.busy = Busy()
        self.ejections = Ejections()
        self._terms = terms
        self._holding = Holding(terms.held)
        self._asked: dict[str, Asked] = {}  # of the requests that are held
        self._endpoints: tuple[Endpoint, ...] = ()
        self._draining = False

    def ask(self, request: str, asked: Asked, now: float) -> Pick | Refusal | None:
        """None: the request is held, and comes out of `released`."""
        if self._draining:
            return Refusal(Reason.DRAINING, 1.0, "this router is going; ask again, another one answers")
        usable = self.ejections.in_service(self._endpoints, now)
        if usable and not (self.held and asked.may_wait):
            return self._send(request, asked, usable, now)
        if not asked.may_wait:
            return Refusal(Reason.NO_REPLICA, self._terms.start_seconds, "no replica is ready")
        refusal = self._holding.take(request, asked.caller, now, self._terms.start_seconds)
        if refusal is None:
            self._asked[request] = asked
        return refusal

    def released(self, now: float) -> Iterator[tuple[str, Pick | Refusal]]:
        """Held requests that are answered now: those that waited too long, and those for whom there is room."""
        for late in self._holding.too_long(now):
            self._leave(late)
            yield late, self._too_late()
        usable = self.ejections.in_service(self._endpoints, now)
        while usable and (roomy := [one for one in usable if self.busy.share(one.uid, now) < FILL]):
            request = self._holding.next()
            if request is None:
                return
            yield request, self._send(request, self._asked.pop(request), roomy, now)

    def gave_up(self, request: str) -> None:
        """The client of a held request is gone."""
        self._leave(request)

    def finished(self, request: str, reached: bool, now: float) -> bool:
        """`reached`: the replica that was picked answered. Returns whether it is left out from now on."""
        uid = self.busy.finished(request, now)
        if uid is None:
            return False
        if reached:
            self.ejections.answered(uid)
            return False
        return self.ejections.failed(uid, now)

    def heard(self, uid: str, load: Load) -> None:
        self.busy.heard(uid, load)

    def there_are(self, endpoints: Sequence[Endpoint]) -> None:
        """All replicas that may be given requests."""
        self._endpoints = tuple(endpoints)
        uids = {endpoint.uid for endpoint in endpoints}
        self.busy.keep(uids)
        self.ejections.keep(uids)

    def drain(self) -> Iterator[tuple[str, Refusal]]:
        """Take nothing new. Held requests are told to ask another router, which loses none: none has begun."""
        self._draining = True
        while (request := self._holding.next()) is not None:
            del self._asked[request]
            yield request, Refusal(Reason.DRAINING, 1.0, "this router is going; ask again, another one answers")

    @property
    def held(self) -> int:
        return len(self._holding)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._endpoints

    def oldest_held_seconds(self, now: float) -> float:
        return self._holding.oldest_seconds(now)

    def _send(self, request: str, asked: Asked, usable: Sequence[Endpoint], now: float) -> Pick:
        pick = choose(asked, usable, self.busy, now)
        self.busy.sent(request, pick.endpoints[0].uid, now)
        return pick

    def _leave(self, request: str) -> None:
        self._holding.leave(request)
        self._asked.pop(request, None)

    def _too_late(self) -> Refusal:
        seconds = self._terms.held.seconds
        if self._endpoints:
            return Refusal(
                Reason.HELD_TOO_LONG, 1.0, f"held for {seconds:g} s: every replica had twice its batch to do"
            )
        return Refusal(
            Reason.HELD_TOO_LONG, self._terms.start_seconds, f"held for {seconds:g} s, and no replica became ready"
        )
