"""One replica with continuous batching. Steps are not simulated one by one: between two changes of the batch they are
alike, so that a request costs a handful of events however many steps it lives through.

Steps are composed as the server's engine/step_planner.py does: a token of each answer first, then prompts in the order
of arrival, several in one step if they fit, as many tokens as the pace allows while somebody decodes. Who comes during
a step is in the next one that is planned. The server plans one step ahead of the device: that delays answers by a step,
and nobody's wait.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import accumulate

from headrace_operator.decide.values import PodSample
from headrace_operator.simulate.admission import Door
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.traces import Request

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, math.inf)  # the server's
Waits = list[tuple[float, float]]  # (arrived at, seconds waited) of requests, as they start
HAIR = 1e-6  # of a step: what floating point may be off
SMALLEST = 8  # prompt tokens of a step: a prompt always goes on


class Filling:
    """A prompt that is being computed."""

    __slots__ = ("done", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = 0  # tokens

    @property
    def left(self) -> int:
        return self.request.prompt - self.done


class Replica:
    """First come, first served."""

    __slots__ = (
        "_arrived",
        "_chunks",
        "_context",
        "_decoding",
        "_door",
        "_filling",
        "_is_open",
        "_known_waits",
        "_planned",
        "at",
        "engine",
        "finished",
        "finished_tokens",
        "kv_used",
        "next_at",
        "received",
        "refused",
        "retried",
        "running",
        "step",
        "steps",
        "tokens",
        "version",
        "waits",
    )  # fmt: skip

    def __init__(self, engine: Engine, now: float) -> None:
        self.engine = engine
        self.at = now  # seconds, when the steps that run now began; everything below is as of then
        self.next_at = math.inf  # seconds of the next change in the batch
        self.version = 0  # of next_at
        self.running = 0  # requests, those whose prompts are computed included
        self.kv_used = 0  # tokens of room
        self.step = 0.0  # seconds that one takes now; 0 = idle
        self.steps = 0  # since the beginning
        self.received = 0
        self.refused = 0
        self.retried = 0
        self.finished = 0
        self.finished_tokens = 0
        self.tokens = 0  # computed
        self.waits = [0] * len(BOUNDS)  # by the first bound that is not below
        self._arrived: deque[tuple[float, Request]] = deque()  # (admitted at, who) of those that wait
        self._door = Door(engine.max_waiting, engine.max_wait)
        self._known_waits: tuple[tuple[float, float], ...] | None = None
        self._filling: deque[Filling] = deque()
        self._decoding: list[tuple[int, Request]] = []  # (step with the last token, whose), a heap
        self._context = 0  # of the answers: tokens before them, less the steps up to which they were not there
        self._chunks: tuple[int, ...] = ()  # tokens of a step of each that fills in
        self._planned = 0  # steps until next_at
        self._is_open = False  # may who comes now begin before next_at?

    @property
    def waiting(self) -> Sequence[Request]:
        return [request for _, request in self._arrived]

    @property
    def in_flight(self) -> int:
        return self.running + len(self._arrived)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._arrived)

    def arrive(self, request: Request, now: float, waited: Waits) -> float | None:
        """None when it is taken; seconds after which to come again when it is refused."""
        self.received += 1
        self.retried += request.is_again
        again = self._door.again(now - self._arrived[0][0] if self._arrived else 0.0)
        if again is not None:
            self.refused += 1
            return again
        self._arrived.append((now, request))
        self._door.came(request.prompt, request.generated)
        seen = now + self.engine.hand_over
        if not self.step:
            self.at = seen
            self._plan(waited)
        elif self._is_open:
            steps = max(1, math.ceil((seen - self.at) / self.step - HAIR))
            if steps < self._planned:
                # By rounding the step could end before the request is there.
                self._planned, self.next_at = steps, max(seen, self.at + steps * self.step)
                self.version += 1
            self._is_open = False
        return None

    def holds(self, request: Request) -> bool:
        """Does it wait here?"""
        return any(waits is request for _, waits in self._arrived)

    def drop(self, request: Request) -> None:
        """Who waits here hung up. The server counts it as ended, with the tokens that were computed: none."""
        self._arrived = deque(entry for entry in self._arrived if entry[1] is not request)
        self._door.left(request.prompt, request.generated)
        self.finished += 1

    def turn(self, waited: Waits) -> None:
        """What happens at `next_at`: prompts are computed, or answers are complete, or somebody joins."""
        steps, answers, chunks = self._planned, len(self._decoding), self._chunks
        self.at = self.next_at
        self.steps += steps
        self.tokens += steps * (sum(chunks) + answers)
        while self._decoding and self._decoding[0][0] <= self.steps:
            self._leave(heappop(self._decoding)[1])
        for chunk in chunks:
            filling = self._filling[0]
            filling.done += steps * chunk
            if filling.left:  # only ever the last of them
                break
            self._filling.popleft()
            self._answer(filling.request)
        self._plan(waited)

    def sample(self, now: float) -> PodSample:
        if self._known_waits is None:
            self._known_waits = tuple(zip(BOUNDS, accumulate(self.waits), strict=True))
        begun = min(float(self._planned), max(0.0, now - self.at) / self.step) if self.step else 0.0
        arrived = self._arrived
        return PodSample(
            at=now,
            waiting=len(arrived),
            running=self.running,
            max_running=self.engine.slots,
            oldest_waiting=now - arrived[0][0] if arrived else 0.0,
            received=self.received,
            finished=self.finished,
            finished_tokens=self.finished_tokens,
            tokens=self.tokens + begun * (sum(self._chunks) + len(self._decoding)),
            queue_waits=self._known_waits,
            refused=self.refused,
            retried=self.retried,
        )

    def inside(self) -> list[Request]:
        """All that have no answer yet."""
        begun = [filling.request for filling in self._filling]
        return [*(request for _, request in self._decoding), *begun, *self.waiting]

    def kv_share(self) -> float:
        """Of the room for KV, 0..1."""
        return self.kv_used / self.engine.kv_tokens

    def _begin(self, waited: Waits) -> Filling | None:
        """The oldest that waits, if there is room. One that is larger than all room runs alone."""
        if not self._arrived or self.running >= self.engine.slots:
            return None
        since, request = self._arrived[0]
        tokens = request.prompt + request.generated
        room = min(self.engine.kv_tokens, tokens)
        if self.kv_used + room > self.engine.kv_tokens:
            return None
        self._arrived.popleft()
        self._door.began(request.prompt, request.generated)
        waited.append((request.at, self.at - request.at))
        self.waits[bisect_left(BOUNDS, self.at - since)] += 1  # a server knows of no try before
        self._known_waits = None
        self.running += 1
        self.kv_used += room
        self._filling.append(filling := Filling(request))
        return filling

    def _answer(self, request: Request) -> None:
        """Its prompt is computed, and with it the first token."""
        if request.generated > 1:
            heappush(self._decoding, (self.steps + request.generated - 1, request))
            self._context += request.prompt - self.steps
        else:
            self._end(request)

    def _leave(self, request: Request) -> None:
        self._context -= request.prompt - (self.steps - request.generated + 1)
        self._end(request)

    def _end(self, request: Request) -> None:
        tokens = request.prompt + request.generated
        self.running -= 1
        self.kv_used -= min(self.engine.kv_tokens, tokens)
        self.finished += 1
        self.finished_tokens += tokens

    def _plan(self, waited: Waits) -> None:
        """What the next steps hold, how long one takes, and when the batch changes next."""
        self.version += 1
        self._chunks = self._composed(waited)
        self._door.look(self.at)
        answers = len(self._decoding)
        if not answers and not self._chunks:
            self.step, self._planned, self.next_at = 0.0, 0, math.inf
            return
        alike = self._alike()
        self._planned = min(alike, self._decoding[0][0] - self.steps) if answers else alike
        self.step = self._seconds(answers, self._planned)
        self.next_at = self.at + self._planned * self.step
        self._is_open = not self._chunks and not self._arrived

    def _composed(self, waited: Waits) -> tuple[int, ...]:
        """Prompt tokens of a step: who began already goes on, then who waits may begin."""
        answers, chunks, used = len(self._decoding), list[int](), 0
        usual = self._usual(answers) if answers else 0.0
        for filling in self._filling:
            chunk = min(filling.left, self._pace(answers, usual, filling.done) - used)
            if chunk <= 0:
                return tuple(chunks)
            chunks.append(chunk)
            used += chunk
        first = self._pace(answers, usual, 0) if self._arrived else 0
        while first > used and (begun := self._begin(waited)) is not None:
            chunk = min(begun.left, first - used)
            chunks.append(chunk)
            used += chunk
        return tuple(chunks)

    def _pace(self, answers: int, usual: float, context: int) -> int:
        """Prompt tokens in a step beside those who decode."""
        engine = self.engine
        most = engine.tokens_per_step - answers
        if not answers:
            return most
        spare = (engine.slower - 1) * usual
        cost = engine.seconds_per_token + engine.seconds_per_pair * context
        return max(1, most if cost * most <= spare else min(most, max(SMALLEST, int(spare / cost))))

    def _usual(self, answers: int) -> float:
        """Seconds of a step without prompts."""
        engine = self.engine
        context = self._context + answers * self.steps
        each = engine.seconds_per_token + engine.seconds_per_sequence
        return engine.overhead + each * answers + engine.seconds_per_kv_token * context

    def _alike(self) -> int:
        """Steps in which the same prompts get as many tokens."""
        if not self._chunks:
            return 1 << 62
        if len(self._chunks) > 1:
            return 1
        return max(1, self._filling[0].left // self._chunks[0])

    def _seconds(self, answers: int, steps: int) -> float:
        """Of the step in the middle of so many."""
        engine = self.engine
        middle = (steps - 1) / 2
        context = self._context + answers * (self.steps + middle)
        pairs, tokens = 0.0, answers
        for filling, chunk in zip(self._filling, self._chunks, strict=False):
            before = filling.done + middle * chunk
            context += before
            pairs += chunk * (before + chunk / 2)
            tokens += chunk
        return (
            engine.overhead
            + engine.seconds_per_token * tokens
            + engine.seconds_per_sequence * answers
            + engine.seconds_per_kv_token * context
            + engine.seconds_per_pair * pairs
        )
