"""One replica with continuous batching. Steps are not simulated one by one: between two changes of the batch every step
takes the same time, so that a request costs a handful of events however many steps it lives through."""

import math
from bisect import bisect_left
from collections import deque
from heapq import heappop, heappush
from itertools import accumulate

from headrace_operator.decide.values import PodSample
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.traces import Request

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, math.inf)  # the server's
Waits = list[tuple[float, float]]  # (arrived at, seconds waited) of requests, as they start
HAIR = 1e-6  # of a step: what floating point may be off
CRUMB = 1e-3  # of a token: likewise


class Replica:
    """First come, first served. Prompts are computed one after the other, beside all running answers."""

    __slots__ = (
        "_context",
        "_decoding",
        "_known_waits",
        "at",
        "chunk",
        "engine",
        "finished",
        "finished_tokens",
        "kv_used",
        "next_at",
        "prefilling",
        "prompt_left",
        "received",
        "refused",
        "running",
        "step",
        "steps",
        "tokens",
        "version",
        "waiting",
        "waits",
    )  # fmt: skip

    def __init__(self, engine: Engine, now: float) -> None:
        self.engine = engine
        self.at = now  # seconds up to which everything below is computed
        self.next_at = math.inf  # seconds of the next change in the batch
        self.version = 0  # of next_at
        self.waiting: deque[Request] = deque()
        self.running = 0  # requests, the one whose prompt is computed included
        self.kv_used = 0  # tokens of room
        self.prefilling: Request | None = None
        self.prompt_left = 0.0  # tokens
        self.step = 0.0  # seconds that one takes now
        self.chunk = 0  # prompt tokens in a step now
        self.steps = 0.0  # since the beginning
        self.received = 0
        self.refused = 0
        self.finished = 0
        self.finished_tokens = 0
        self.tokens = 0.0
        self.waits = [0] * len(BOUNDS)  # by the first bound that is not below
        self._known_waits: tuple[tuple[float, float], ...] | None = None
        self._decoding: list[tuple[float, Request]] = []  # (step with the last token, whose), a heap
        self._context = 0.0  # tokens read a step: prompts and half of the answers

    @property
    def in_flight(self) -> int:
        return self.running + len(self.waiting)

    def arrive(self, request: Request, now: float, waited: Waits) -> bool:
        """False when it is refused: too many wait. `waited` takes the waits that end."""
        self.received += 1
        if len(self.waiting) >= self.engine.max_waiting:
            self.refused += 1
            return False
        self.waiting.append(request)
        if self.prefilling is None:
            self.advance(now)
            self._begin(waited)
            self._plan()
        return True

    def turn(self, now: float, waited: Waits) -> None:
        """What happens at `next_at`: a prompt is computed, or answers are complete."""
        self.advance(now)
        decoding, reached = self._decoding, self.steps + HAIR
        while decoding and decoding[0][0] <= reached:
            self._end(heappop(decoding)[1])
        request = self.prefilling
        if request is not None and self.prompt_left <= CRUMB:
            self.prefilling = None
            if request.generated > 1:
                heappush(decoding, (self.steps + request.generated - 1, request))
            else:
                self._end(request)
        if self.prefilling is None and self.waiting:
            self._begin(waited)
        self._plan()

    def advance(self, now: float) -> None:
        seconds = now - self.at
        if seconds > 0 and self.step > 0:
            steps = seconds / self.step
            self.steps += steps
            self.tokens += steps * (self.chunk + len(self._decoding))
            self.prompt_left -= steps * self.chunk
        self.at = now

    def sample(self, now: float) -> PodSample:
        self.advance(now)
        if self._known_waits is None:
            self._known_waits = tuple(zip(BOUNDS, accumulate(self.waits), strict=True))
        waiting = self.waiting
        return PodSample(
            at=now,
            waiting=len(waiting),
            running=self.running,
            max_running=self.engine.slots,
            oldest_waiting=now - waiting[0].at if waiting else 0.0,
            received=self.received,
            finished=self.finished,
            finished_tokens=self.finished_tokens,
            tokens=self.tokens,
            queue_waits=self._known_waits,
            refused=self.refused,
        )

    def inside(self) -> list[Request]:
        """All that have no answer yet."""
        begun = [] if self.prefilling is None else [self.prefilling]
        return [*(request for _, request in self._decoding), *begun, *self.waiting]

    def kv_share(self) -> float:
        """Of the room for KV, 0..1."""
        return self.kv_used / self.engine.kv_tokens

    def _begin(self, waited: Waits) -> None:
        """The oldest that waits, if there is room. One that is larger than all room runs alone."""
        if not self.waiting or self.running >= self.engine.slots:
            return
        request = self.waiting[0]
        room = min(self.engine.kv_tokens, request.prompt + request.generated)
        if self.kv_used + room > self.engine.kv_tokens:
            return
        self.waiting.popleft()
        # A batch cannot be joined in the middle of a step: on average half of one is still to go.
        wait = self.at - request.at + self.step / 2
        waited.append((request.at, wait))
        self.waits[bisect_left(BOUNDS, wait)] += 1
        self._known_waits = None
        self.running += 1
        self.kv_used += room
        self._context += request.prompt + request.generated / 2
        self.prefilling, self.prompt_left = request, float(request.prompt)

    def _end(self, request: Request) -> None:
        tokens = request.prompt + request.generated
        self.running -= 1
        self.kv_used -= min(self.engine.kv_tokens, tokens)
        self._context -= request.prompt + request.generated / 2
        self.finished += 1
        self.finished_tokens += tokens

    def _plan(self) -> None:
        """The length of a step with today's batch, and when the batch changes next."""
        engine, decoding = self.engine, self._decoding
        answers = len(decoding)
        self.version += 1
        if self.prefilling is not None:
            self.chunk = max(1, engine.tokens_per_step - answers)
            computed, steps = self.chunk + answers, self.prompt_left / self.chunk
            if decoding:
                steps = min(steps, decoding[0][0] - self.steps)
        elif decoding:
            self.chunk, computed, steps = 0, answers, decoding[0][0] - self.steps
        else:
            self.chunk, self.step, self.next_at = 0, 0.0, math.inf
            return
        self.step = engine.overhead + engine.seconds_per_token * computed + engine.seconds_per_kv_token * self._context
        self.next_at = self.at + max(0.0, steps) * self.step
