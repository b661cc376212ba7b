"""What the engine thread does: plan a step, launch it, wait for the one before, commit it. The device never waits.

The host plans step N+1 while the device computes step N. It can, because a step holds no generated token: each request
has a slot on the device, and the token that step N chooses for a slot is carried over there to step N+1.

    host     plan 1 │ launch 1 │ plan 2 │ launch 2 │ wait 1 ... │ commit 1 │ plan 3 │ launch 3 │ wait 2 ... │ commit 2
    copy in                    │ A ▄    │          │ B ▄        │          │        │          │ A ▄
    compute                    │   █████ step 1 ██████████████ │█████ step 2 ██████████████████│█████ step 3 ███
    copy out                   │                               │ ▄ A                           │ ▄ B
                                                                 └─ event: the only thing that the host waits for
    carry-over                       tokens of step 1 ────► slots ────► input of step 2

A and B are the two step descriptors of the ring: B is written while the device still reads A. The price is one token:
a request that ends with step N (a stop token) is already part of step N+1, and what that chooses for it is thrown away.
`synchronous` is the same without the overlap: plainly right, the oracle that `overlapped` is compared with.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from headrace_server.engine.admission import Backlog
from headrace_server.engine.in_flight import Committed
from headrace_server.engine.profile import Range, StepProfile, nowhere
from headrace_server.engine.queue import kind
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.request import Finish, Logprobs, Priority


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one step brought, on the host."""

    token_ids: list[int]  # one per chunk that samples and one per guess, in the step's order
    logprobs: list[Logprobs | None]  # of those tokens; empty when nobody asked
    prompt_logprobs: list[list[Logprobs]]  # of each chunk that scores, in the step's order
    busy: float  # seconds that the device computed
    gap: float  # seconds that the device had stood still before, since the step before; 0 for the first
    padded: int = 0  # rows computed besides those of the step, because fewer would have taken longer
    guessed: tuple[int, ...] = ()  # by the draft model, in the step's order


class Outcome(Protocol):
    def wait(self) -> Sampled:
        """Sleeps until the device is done. Raises what broke the step."""


class Runner(Protocol):
    def launch(self, step: Step) -> Outcome:
        """Hands a step to the device and returns at once. Called again only when at most one step is not waited for."""


@dataclass(frozen=True, slots=True)
class News:
    """What the engine thread tells the event loop."""

    now: float  # seconds on the engine's clock
    committed: Committed
    step: Step | None = None  # None: requests that ended without a step
    seconds: float = 0.0  # that the step took, from its launch or the end of the one before, whichever is later
    gap: float = 0.0  # seconds that the device stood still although there was work
    padded: int = 0  # rows computed besides those of the step
    busy: float = 0.0  # seconds that the device computed


@dataclass(frozen=True, slots=True)
class _InFlight:
    step: Step
    outcome: Outcome
    launched_at: float
    follows: bool  # directly after another step: a gap before it is the host's fault


@dataclass(frozen=True, slots=True)
class Message:
    """To the engine thread."""

    sequence: Sequence
    finish: Finish | None = None  # end it; None: a new one
    waits: bool = False  # one to be ended that no step has included yet


class Passed:
    """What went into the inbox or came out of it, ever. Written by one thread and read by any, unlike a deque, which
    must not change while another thread looks through it."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(Priority, 0)
        self.tokens = dict.fromkeys(Priority, 0)  # that they may cost
        self.answers = dict.fromkeys(Priority, 0)  # of them, those that may be generated
        self.left = dict.fromkeys(Priority, 0)  # requests that were ended while they waited

    def came(self, sequence: Sequence) -> None:
        self.requests[sequence.request.priority] += 1
        self.tokens[sequence.request.priority] += sequence.cost
        self.answers[sequence.request.priority] += sequence.answer_cost


class Core:
    """`submit`, `end`, `stop` and the properties may be called from any thread; the rest is the engine thread's."""

    def __init__(
        self, runner: Runner, scheduler: Scheduler, clock: Callable[[], float], tell: Callable[[News], None]
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._clock = clock
        self._tell = tell
        self._sent, self._read = Passed(), Passed()
        self._inbox: deque[Message] = deque()
        self._woken = threading.Event()
        self._stopped = False
        self._last_commit = 0.0
        self._chores: deque[tuple[Callable[[], None], Future[None]]] = deque()  # for when no step is in flight
        self._profile: StepProfile | None = None
        self._range: Range = nowhere  # marks what the engine's thread does, while somebody profiles

    @property
    def waiting(self) -> int:
        """Those in the inbox are counted as if it had been read: the engine thread may sleep until a long step ends."""
        return sum(map(self.waiting_of, Priority))

    def backlog(self, now: float) -> Backlog:
        """What waits, likewise."""
        queue, sent, read = self._scheduler.queue, self._sent, self._read
        return Backlog(
            requests={each: self.waiting_of(each) for each in Priority},
            tokens={each: queue.tokens(each) + sent.tokens[each] - read.tokens[each] for each in Priority},
            tokens_per_second={each: queue.tokens_per_second(kind(each)) for each in Priority},
            oldest=self.oldest_waiting(now),
            answers={each: queue.answers(each) + sent.answers[each] - read.answers[each] for each in Priority},
            answers_per_second={each: queue.answers_per_second(kind(each)) for each in Priority},
        )

    def waiting_of(self, priority: Priority) -> int:
        unread = self._sent.requests[priority] - self._read.requests[priority]
        left = self._sent.left[priority] - self._read.left[priority]
        return max(0, self._scheduler.queue.requests(priority) + unread - left)

    def oldest_waiting(self, now: float, classes: tuple[Priority, ...] = tuple(Priority)) -> float:
        """Seconds that the request that came first has waited so far; 0 when nobody of these classes waits."""
        oldest = self._scheduler.queue.oldest(now, classes)
        if oldest == 0:
            try:
                first = self._inbox[0]
            except IndexError:  # nothing there, or the engine thread has just taken it
                return 0.0
            is_new = first.finish is None and first.sequence.request.priority in classes
            oldest = max(0.0, now - first.sequence.request.arrived_at) if is_new else 0.0
        return oldest

    def submit(self, sequence: Sequence) -> None:
        self._sent.came(sequence)
        self._inbox.append(Message(sequence))
        self._woken.set()

    def end(self, sequence: Sequence, finish: Finish) -> None:
        waits = sequence.queue_wait is None
        self._sent.left[sequence.request.priority] += waits
        self._inbox.append(Message(sequence, finish, waits))
        self._woken.set()

    def when_idle(self, chore: Callable[[], None]) -> "Future[None]":
        """In the engine's thread, once no step is in flight, it is done."""
        done: Future[None] = Future()
        self._chores.append((chore, done))
        self._woken.set()
        return done

    def profile(self, profile: StepProfile) -> None:
        """From the next step on."""
        self._profile = profile

    def end_profile(self) -> None:
        """With the steps that it has, if it is not over yet."""
        if self._profile is not None:
            self._profile.give_up()
            self._woken.set()

    def stop(self) -> None:
        """`run` returns soon, or when the device lets go of it."""
        self._stopped = True
        self._woken.set()

    def run(self, overlap: bool) -> None:
        """Until `stop`. Raises what breaks a step, after which nothing is held any more."""
        try:
            (self.overlapped if overlap else self.synchronous)()
        finally:
            self._scheduler.abandon(Finish.FAILED)
            if self._profile is not None:
                self._end_profile(self._profile)
            for _, done in self._chores:
                done.cancel()

    def synchronous(self) -> None:
        follows = False
        while not self._stopped:
            current = self._launch(follows)
            follows = current is not None
            if current is None:
                self._sleep()
            else:
                self._commit(current)

    def overlapped(self) -> None:
        previous: _InFlight | None = None
        while not self._stopped:
            current = self._launch(follows=previous is not None)
            if previous is not None:
                self._commit(previous)
            elif current is None:
                self._sleep()
            previous = current

    def _launch(self, follows: bool) -> _InFlight | None:
        with self._range("plan"):
            self._read_inbox()
            if self._chores and not self._scheduler.in_flight:
                self._do_chores()
            now = self._clock()
            if late := self._scheduler.expire(now):
                self._tell(News(now, Committed((), late)))
            step = self._scheduler.next_step(now)
        if self._profile is not None:
            self._follow(self._profile, step)
        if step is None:
            return None
        with self._range("launch"):
            return _InFlight(step, self._runner.launch(step), now, follows)

    def _commit(self, done: _InFlight) -> None:
        with self._range("wait"):
            sampled = done.outcome.wait()
        if self._stopped:
            return
        now = self._clock()
        with self._range("commit"):
            committed = self._scheduler.commit(
                done.step, sampled.token_ids, sampled.logprobs, sampled.prompt_logprobs, sampled.guessed
            )
        seconds = now - max(done.launched_at, self._last_commit)
        self._last_commit = now
        self._scheduler.observe(done.step, seconds)
        gap = sampled.gap if done.follows else 0.0
        self._tell(News(now, committed, done.step, seconds, gap, sampled.padded, sampled.busy))
        if self._profile is not None and self._profile.committed():
            self._end_profile(self._profile)

    def _do_chores(self) -> None:
        while self._chores:
            chore, done = self._chores.popleft()
            try:
                chore()
            except Exception as fault:  # raised again where the future is awaited
                done.set_exception(fault)
            else:
                done.set_result(None)

    def _follow(self, profile: StepProfile, step: Step | None) -> None:
        if profile.given_up:
            self._end_profile(profile)
        elif step is not None:
            profile.launching(self._scheduler.in_flight - 1)  # this one is planned already
            self._range = profile.range

    def _end_profile(self, profile: StepProfile) -> None:
        self._profile, self._range = None, nowhere
        profile.end()

    def _read_inbox(self) -> None:
        self._woken.clear()
        ended = []
        while self._inbox:
            message = self._inbox.popleft()
            if message.finish is None:
                self._scheduler.enter(message.sequence)
                self._read.came(message.sequence)  # now: counted twice for a moment, but never not at all
                continue
            if self._scheduler.end(message.sequence, message.finish):
                ended.append(message.sequence)
            self._read.left[message.sequence.request.priority] += message.waits
        if ended:
            self._tell(News(self._clock(), Committed((), tuple(ended))))

    def _sleep(self) -> None:
        if self._inbox:
            return
        held_until = self._scheduler.held_until
        if held_until is None:
            self._scheduler.check()  # idle is the cheap moment: every page has to be back
        self._woken.wait(None if held_until is None else max(0.0, held_until - self._clock()))
