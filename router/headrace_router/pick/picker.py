"""All that one router knows, and what follows from it for each request: where to, wait here, or no.

Every method takes `now` in seconds, on one clock. What is answered later, because the request is held, comes out of
`released`: whoever changed something asks for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace_router.pick.busy import Busy
from headrace_router.pick.choose import ALTERNATIVES, choose
from headrace_router.pick.ejection import Ejections
from headrace_router.pick.holding import Holding, Limits
from headrace_router.pick.shares import Turns, of_revision, revision_shares
from headrace_router.values import Asked, Endpoint, Found, Guidance, Load, Pick, Reason, Refusal

EPSILON = 1e-9  # ten times a tenth is not quite one
FILL = (
    2  # requests for each place of a replica's batch, up to which held requests go on: what it computes, and the next
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be held, and what who is refused is told."""

    held: Limits
    start_seconds: float  # until a replica is there, when none is and the operator has not said how long that takes


class Picker:
    def __init__(self, terms: Terms) -> None:
        self.busy = Busy()
        self.ejections = Ejections()
        self._terms = terms
        self._holding = Holding(terms.held)
        self._asked: dict[str, Asked] = {}  # of the requests that are held
        self._endpoints: tuple[Endpoint, ...] = ()
        self._mirrors = False  # somebody hears copies
        self._guidance = Guidance()
        self._turns = Turns()
        self._owed_copies = 0.0
        self._draining = False

    def ask(self, request: str, asked: Asked, now: float) -> Pick | Refusal | None:
        """None: the request is held, and comes out of `released`."""
        if self._draining:
            return Refusal(Reason.DRAINING, 1.0, "this router is going; ask again, another one answers")
        usable = self.ejections.in_service(self._endpoints, now)
        if usable and not (self.held and asked.may_wait):
            return self._send(request, asked, usable, now)
        if not asked.may_wait:
            return Refusal(Reason.NO_REPLICA, self.start_seconds, "no replica is ready")
        refusal = self._holding.take(request, asked.caller, now, self.start_seconds)
        if refusal is None:
            self._asked[request] = asked
        return refusal

    def would_hold(self, now: float) -> bool:
        """Whether a request that may wait would."""
        return bool(self.held) or not self.ejections.in_service(self._endpoints, now)

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

    def there_are(self, found: Found) -> None:
        """All replicas that may be given requests, and whether any may be given copies."""
        self._endpoints = found.serving
        self._mirrors = bool(found.mirrors)
        uids = {endpoint.uid for endpoint in found.serving}
        self.busy.keep(uids)
        self.ejections.keep(uids)

    def guided(self, guidance: Guidance) -> None:
        self._guidance = guidance

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

    @property
    def start_seconds(self) -> float:
        """Until a replica is there, when none is."""
        told = self._guidance.start_seconds
        return self._terms.start_seconds if told is None else told

    def oldest_held_seconds(self, now: float) -> float:
        return self._holding.oldest_seconds(now)

    def _send(self, request: str, asked: Asked, usable: Sequence[Endpoint], now: float) -> Pick:
        pick = self._choose(asked, usable, now)
        self.busy.sent(request, pick.endpoints[0].uid, now)
        return replace(pick, is_mirrored=True) if asked.may_wait and self._is_copied() else pick

    def _choose(self, asked: Asked, usable: Sequence[Endpoint], now: float) -> Pick:
        """By the revisions' shares first. What cannot be reached is tried elsewhere, whatever the shares say."""
        shares = dict(self._guidance.shares)
        if not shares:
            return choose(asked, usable, self.busy, now)
        chosen = of_revision(self._turns.next(revision_shares(shares, usable)), shares, usable)
        pick = choose(asked, chosen, self.busy, now)
        if len(chosen) == len(usable) or len(pick.endpoints) == ALTERNATIVES:
            return pick
        others = choose(asked, [one for one in usable if one not in chosen], self.busy, now)
        return replace(pick, endpoints=(*pick.endpoints, *others.endpoints)[:ALTERNATIVES])

    def _is_copied(self) -> bool:
        """The mirrors' share of the requests, evenly spread. While no mirror is there none is owed."""
        if not self._mirrors:
            return False
        self._owed_copies += self._guidance.mirror_share
        due = self._owed_copies >= 1 - EPSILON
        self._owed_copies -= due
        return due

    def _leave(self, request: str) -> None:
        self._holding.leave(request)
        self._asked.pop(request, None)

    def _too_late(self) -> Refusal:
        seconds = self._terms.held.seconds
        if self._endpoints:
            return Refusal(
                Reason.HELD_TOO_LONG, 1.0, f"held for {seconds:g} s: every replica had twice its batch to do"
            )
        return Refusal(Reason.HELD_TOO_LONG, self.start_seconds, f"held for {seconds:g} s, and no replica became ready")
