"""How busy each replica is between two of its reports: what it said, and what was sent and finished since.

A report is a quarter of a second old when it is used, which at some hundred requests a second is a crowd. So what this
router knows itself counts at once, and a report only tells of the requests that others sent.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_router.values import Load

ASSUMED_SLOTS = 32  # places of a batch, while no replica has said how many it has
STALE = 10.0  # seconds after which a report says nothing any more: others' requests of then are done
MOST_EARLY = 1024  # requests whose end was heard of before they were sent anywhere
SMOOTHING = 0.05  # share of a finished request in the mean of how long they take


class Standing(NamedTuple):  # made for each replica at each request: a dataclass takes three times as long
    """Of one replica, now."""

    inside: int  # requests there
    slots: int  # requests that it computes together
    wait: float  # seconds that one more request would wait

    @property
    def share(self) -> float:
        """Requests for each place of the batch: beyond 1 the next one waits."""
        return self.inside / self.slots


@dataclass(slots=True)
class Ledger:
    """Of one replica."""

    own: int = 0  # requests that this router sent there and that are not finished
    others: int = 0  # requests of somebody else, at the last report
    slots: int | None = None  # requests that it computes together; None: it has not said
    heard_at: float | None = None  # seconds; None: never


@dataclass(slots=True)
class Busy:
    """Of all replicas, by pod UID, and of the requests under way."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    under_way: dict[str, tuple[str, float]] = field(default_factory=dict)  # request -> replica, when it was sent
    early: dict[str, None] = field(default_factory=dict)  # requests that are over already, the oldest first
    request_seconds: float = 1.0  # mean of how long a request takes there

    def sent(self, request: str, uid: str, now: float) -> None:
        """A second word on the same request replaces the first."""
        self._forget(request)
        if request in self.early:  # its client left while it was asked where to go, and nothing will end it again
            del self.early[request]
            return
        self.under_way[request] = (uid, now)
        self._ledger(uid).own += 1

    def finished(self, request: str, now: float) -> str | None:
        """Returns the UID of the replica that it was sent to; None for a request that was sent nowhere."""
        found = self._forget(request)
        if found is None:
            self.early[request] = None
            if len(self.early) > MOST_EARLY:
                del self.early[next(iter(self.early))]
            return None
        uid, sent_at = found
        self.request_seconds += SMOOTHING * (now - sent_at - self.request_seconds)
        return uid

    def heard(self, uid: str, load: Load) -> None:
        ledger = self._ledger(uid)
        ledger.others = max(0, load.inside - ledger.own)
        ledger.slots = max(1, load.max_running)
        ledger.heard_at = load.at

    def keep(self, uids: set[str]) -> None:
        """Forget replicas that are gone once their last request is finished."""
        for uid in [uid for uid, ledger in self.ledgers.items() if uid not in uids and not ledger.own]:
            del self.ledgers[uid]

    def standing(self, uid: str, now: float) -> Standing:
        ledger = self._ledger(uid)
        stale = ledger.heard_at is None or now - ledger.heard_at > STALE
        inside = ledger.own + (0 if stale else ledger.others)
        slots = self._least_slots() if ledger.slots is None else ledger.slots
        # While a place is free nobody waits, whatever a report said a moment ago. Else places become free at an even
        # pace: each request holds one for `request_seconds`.
        return Standing(inside, slots, max(0, inside + 1 - slots) * self.request_seconds / slots)

    def inside(self, uid: str, now: float) -> int:
        return self.standing(uid, now).inside

    def share(self, uid: str, now: float) -> float:
        return self.standing(uid, now).share

    def predicted_wait(self, uid: str, now: float) -> float:
        return self.standing(uid, now).wait

    def _least_slots(self) -> int:
        """For a replica that has not said how many it computes together: the least that another one said."""
        return min((each.slots for each in self.ledgers.values() if each.slots is not None), default=ASSUMED_SLOTS)

    def _ledger(self, uid: str) -> Ledger:
        return self.ledgers.setdefault(uid, Ledger())

    def _forget(self, request: str) -> tuple[str, float] | None:
        found = self.under_way.pop(request, None)
        if found is not None:
            self._ledger(found[0]).own -= 1
        return found
