"""Slots and pages of those who run: given to those who begin, won back from those who can be computed again later."""

from collections.abc import Iterable

from headrace_server.engine.entry import Entry
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.plan import Plan
from headrace_server.engine.preemption import Stake, victim
from headrace_server.engine.queue import Waiting
from headrace_server.engine.sequence import Sequence, Start
from headrace_server.request import Priority

URGENCY = {Priority.BATCH: 0, Priority.STANDARD: 1, Priority.INTERACTIVE: 2}  # of a stake
OVERTAKEN = 16  # times that others may begin before one that does not fit; then all wait until it does


class Places:
    def __init__(self, slots: int, entry: Entry, pages: PageLedger, queue: Waiting) -> None:
        self.running: dict[int, Sequence] = {}  # by slot, oldest first
        self.preemptions = 0
        self.recomputed_tokens = 0  # computed again because of preemptions
        self._free_slots = list(range(slots - 1, -1, -1))
        self._entry = entry
        self._pages = pages
        self._queue = queue

    @property
    def free(self) -> int:
        return len(self._free_slots)

    @property
    def unused(self) -> float:
        """Share of the slots in which no online request runs."""
        slots = len(self._free_slots) + len(self.running)
        return 1 - sum(not one.offline for one in self.running.values()) / slots

    def begin(
        self, order: Iterable[Sequence], now: float, spare: int = 0, offline_keeps: int | None = None
    ) -> Start | None:
        """The first in this order that fits. One that does not fit is overtaken OVERTAKEN times and no more.

        `spare`: slots that are not for these. `offline_keeps`: slots of offline work that stay its own when these need
        them; None: all of them. Nobody offline may be in the step already, if any are not to stay.
        A preempted one has to wait for the token that a step in flight chooses for it.
        """
        if self.free <= spare and not self._may_win_back(spare, offline_keeps):  # a full server: nobody is looked at
            return None
        overtaken: list[Sequence] = []
        for sequence in order:
            if not sequence.steps_in_flight and self._has_place(sequence, spare, offline_keeps):
                for other in overtaken:
                    other.overtaken += 1
                return self._enter(sequence, now)
            if sequence.overtaken >= OVERTAKEN:
                return None
            overtaken.append(sequence)
        return None

    def fits(self, sequence: Sequence) -> bool:
        """Whether its pages are there."""
        return not self._entry.pages_short(sequence)

    def vacate(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        del self.running[sequence.slot]
        self._free_slots.append(sequence.slot)
        self._pages.give_back(sequence.pages)
        sequence.pages.clear()
        sequence.slot = None

    def make_room(self, plan: Plan, decoding: list[Sequence], candidates: list[Sequence]) -> None:
        """Preempts `candidates` until those of `decoding` who are left can go on, or only one is left: it gets what
        others soon give back."""
        while True:
            left = [sequence for sequence in candidates if sequence.slot is not None]
            needed = sum(plan.pages_missing(sequence, 1) for sequence in decoding if sequence.slot is not None)
            if needed <= self._pages.available or len(left) < 2 or (chosen := self._victim(left)) is None:
                return
            self._preempt(chosen)

    def _has_place(self, sequence: Sequence, spare: int, offline_keeps: int | None) -> bool:
        short = self._entry.pages_short(sequence)
        if self.free > spare and not short:
            return True
        return offline_keeps is not None and self._win_back(sequence, short, spare, offline_keeps)

    def _win_back(self, sequence: Sequence, short: int, spare: int, offline_keeps: int) -> bool:
        """From offline work, if that is enough: slots as far as they are not its own, pages as far as they are needed
        (else one long offline answer would keep an online prompt waiting for minutes)."""
        if self.free <= spare and not self._may_win_back(spare, offline_keeps):
            return False
        offline = self._offline()
        if short > sum(self._pages.freed_by(one.pages) for one in offline):
            return False
        while self.free <= spare or self._entry.pages_short(sequence):
            chosen = self._victim(offline) or (offline[-1] if offline and self.free <= spare else None)
            if chosen is None:
                return False
            offline.remove(chosen)
            self._preempt(chosen)
        return True

    def _may_win_back(self, spare: int, offline_keeps: int | None) -> bool:
        """A slot, if pages are no matter."""
        return offline_keeps is not None and len(self._offline()) - offline_keeps >= 1 + spare - self.free

    def _offline(self) -> list[Sequence]:
        return [one for one in self.running.values() if one.offline and one.may_run]

    def _victim(self, candidates: list[Sequence]) -> Sequence | None:
        stakes = [
            Stake(one.planned, self._pages.freed_by(one.pages), URGENCY[one.request.priority]) for one in candidates
        ]
        chosen = victim(stakes)
        return None if chosen is None else candidates[chosen]

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.recomputed_tokens += sequence.planned
        self.vacate(sequence)
        sequence.planned, sequence.prefix = 0, None  # it begins longer now
        self._queue.push(sequence)

    def _enter(self, sequence: Sequence, now: float) -> Start:
        self._queue.begin(sequence)
        start = self._entry.enter(sequence, self._free_slots.pop(), now)
        self.running[start.slot] = sequence
        if sequence.share is not None and start.queue_wait is not None:
            sequence.share.got(len(sequence.request.prompt))
        return start
