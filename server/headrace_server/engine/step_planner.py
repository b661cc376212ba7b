"""What one step holds: first a token of each online request that decodes, then online prompts, then offline work.

Every running online sequence gets at least one token, unless the pages are short; a structured one gets one as soon as
it is known what the one before was, so every other step when steps overlap. So neither a long prompt starves those that
decode nor the other way round.

Offline work gets what online work leaves (backfill.py). While both want more than a step holds it gets its reserve
(reserve.py), and whatever it holds beyond that is online work's to take (places.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from math import inf

from headrace_server.config import EngineConfig
from headrace_server.engine.backfill import Backfill, Room
from headrace_server.engine.pace import PrefillPace
from headrace_server.engine.places import Places
from headrace_server.engine.plan import Plan
from headrace_server.engine.queue import OFFLINE, ONLINE, Waiting
from headrace_server.engine.reserve import Crowding, OfflineReserve, Queue
from headrace_server.engine.sequence import Sequence, Start
from headrace_server.request import Priority


@dataclass(frozen=True, slots=True)
class Turn:
    """One step that is being planned."""

    plan: Plan
    now: float
    running: list[Sequence]  # those who have tokens to come, whether or not they await one
    online: list[Sequence]  # of them, those who may be in this step
    offline: list[Sequence]  # likewise
    contested: bool  # online and offline work both want more of the step than a token each

    @property
    def decoding(self) -> int:
        awaiting = len(self.online) + len(self.offline) < len(self.running)
        return self.plan.decoding or int(awaiting)  # who awaits its token wants the next one soon


class StepPlanner:
    """Pure: the caller brings the clock."""

    def __init__(self, config: EngineConfig, places: Places, queue: Waiting, pace: PrefillPace) -> None:
        self._max_tokens = config.max_tokens_per_step
        self._places = places
        self._queue = queue
        self._pace = pace
        self._reserve = OfflineReserve(config.offline_reserve, config.max_running, config.max_tokens_per_step)
        self._crowding = Crowding()
        self._config = config
        self._backfill = Backfill(pace)

    def fill(self, plan: Plan, now: float, *, held: bool, ahead: bool) -> bool:
        """False when nothing is to be planned yet.

        `held`: nobody who waits may begin now. `ahead`: a step is in flight.
        """
        turn = self._turn(plan, now)
        if turn.online or self._queue.any(ONLINE):
            self._backfill.online(now)
        elif ahead and not self._backfill.quiet(now):
            return False
        self._online(turn, held=held)
        if turn.offline or self._queue.any(OFFLINE):
            self._offline(turn, held=held)
        self._crowding.look(now, self._waiting_online(), plan.tokens[Priority.BATCH] / max(1, plan.total))
        owed = plan.total if self._crowding.lasts else 0
        self._reserve.planned(owed, plan.tokens[Priority.BATCH], turn.contested)
        self._queue.look(now)
        return True

    def _turn(self, plan: Plan, now: float) -> Turn:
        running = [sequence for sequence in self._places.running.values() if sequence.may_run]
        # Only guided ones await their tokens: of hundreds of others not even that is asked, in every step.
        ready = [sequence for sequence in running if sequence.guide is None or not sequence.awaits_its_token]
        online = [sequence for sequence in ready if not sequence.offline]
        offline = [sequence for sequence in ready if sequence.offline]
        return Turn(plan, now, running, online, offline, self._contested(online, offline))

    def _waiting_online(self) -> Queue:
        """What admission.py looks at."""
        config, rate = self._config, self._queue.tokens_per_second(ONLINE)
        requests, tokens = (sum(map(of, ONLINE)) for of in (self._queue.requests, self._queue.tokens))
        seconds = tokens / rate if rate else 0.0
        most_tokens, most_seconds = config.max_waiting_tokens or inf, config.max_wait / 2
        full = max(requests / config.max_waiting, tokens / most_tokens, seconds / most_seconds)
        return Queue(requests > 0, seconds, full)

    def _contested(self, online: list[Sequence], offline: list[Sequence]) -> bool:
        """Both kinds have work, and online work has more than a token each."""
        if not offline and not self._queue.any(OFFLINE):
            return False
        return self._queue.any(ONLINE) or any(sequence.fill_left for sequence in online)

    def _online(self, turn: Turn, *, held: bool) -> None:
        plan = turn.plan
        decoding, filling = _split(turn.online)
        self._decode(plan, decoding, turn.running)
        owed = turn.contested and self._reserve.allowance > 0
        first = next(self._queue.order(turn.now, OFFLINE), None) if owed else None
        opens = first is not None and self._opens(first, len(turn.offline)) and self._places.fits(first)
        withheld = self._withheld(turn.offline, first if opens else None) if owed else 0
        most, decoders = self._max_tokens - plan.decoding - plan.guessed - withheld, turn.decoding

        def room(context: int) -> int:
            return min(self._pace.prefill_tokens(decoders, context), most) - plan.known_tokens

        _fill(plan, filling, room)
        kept = max(self._reserve.places, self._reserve.allowance) if self._crowding.lasts else 0
        while room(0) > 0 and not held:
            order = self._queue.order(turn.now, ONLINE)
            start = self._places.begin(order, turn.now, int(opens), kept)
            if start is None:
                return
            self._started(plan, start, room)

    def _offline(self, turn: Turn, *, held: bool) -> None:
        plan, online = turn.plan, turn.plan.decoding
        room = self._offline_room(turn)
        running = [one for one in turn.offline if one.slot is not None]  # the others were preempted just now
        decoding, filling = _split(running)
        decoding = decoding[: room.decoding]
        plan.guess_at_most(room.tokens - len(decoding))
        self._decode(plan, decoding, running)

        def left(context: int) -> int:
            bearable = min(room.prompts(context), self._pace.prefill_tokens(turn.decoding, context))
            return min(bearable - plan.known_tokens, room.tokens - plan.tokens[Priority.BATCH])

        _fill(plan, filling, left)
        begun = len(running)
        while left(0) > 0 and not held:
            order = self._queue.order(turn.now, OFFLINE)
            if room.owed:
                order = takewhile(partial(self._opens, running=begun), order)
            start = self._places.begin(order, turn.now)
            if start is None:
                break
            self._started(plan, start, left)
            begun += 1
        if online and not turn.contested:
            self._backfill.taken(plan, online)

    def _offline_room(self, turn: Turn) -> Room:
        plan, left = turn.plan, self._max_tokens - turn.plan.total
        if not plan.chunks:
            return self._backfill.in_a_gap(plan, turn.now, left)
        if turn.contested:
            owed = min(left, self._reserve.allowance)
            return Room(owed, owed, lambda _: self._max_tokens, owed=True)
        return self._backfill.beside(plan, self._places.unused, left)

    def _opens(self, first: Sequence, running: int) -> bool:
        return self._reserve.opens(first.known, running)

    def _withheld(self, offline: list[Sequence], first: Sequence | None) -> int:
        """Tokens of a contested step that are offline work's: what it is owed, as far as it can take that now."""
        wanted = sum(max(1, sequence.fill_left) for sequence in offline) + (first.known if first else 0)
        return min(self._reserve.allowance, wanted, self._max_tokens // 2)

    def _decode(self, plan: Plan, decoding: list[Sequence], candidates: list[Sequence]) -> None:
        """One token each. Makes room first when pages are short, at the cost of `candidates`."""
        if not plan.has_room_for(decoding):
            self._places.make_room(plan, decoding, candidates)
            decoding = [one for one in decoding if one.slot is not None]
            for sequence in decoding:
                if plan.has_room(sequence):
                    plan.decode(sequence)
            return
        for sequence in decoding:
            plan.decode(sequence)

    def _started(self, plan: Plan, start: Start, room: Callable[[int], int]) -> None:
        sequence = self._places.running[start.slot]
        plan.start(start, sequence)
        plan.fill(sequence, max(1, room(sequence.planned)))


def _fill(plan: Plan, running: list[Sequence], room: Callable[[int], int]) -> None:
    """Prompts that are begun go on, as far as those who decode can bear it."""
    for sequence in running:
        if sequence.slot is not None:  # else it has just been preempted
            plan.fill(sequence, room(sequence.planned))


def _split(running: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
    """Those who decode, and those whose prompts are being filled in."""
    filling = [sequence for sequence in running if sequence.planned < len(sequence.fill)]
    if not filling:  # as nearly always
        return running, filling
    return [sequence for sequence in running if not sequence.fill_left], filling
