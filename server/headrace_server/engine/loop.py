"""The engine as the doors see it: submit, read, hang up, drain. It lives in the event loop, its core in a thread."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headrace_server.config import EngineConfig
from headrace_server.engine.account import Account
from headrace_server.engine.adapters import expose_adapters
from headrace_server.engine.admission import Admission
from headrace_server.engine.core import Core, News, Outcome, Runner, Sampled
from headrace_server.engine.grammar import Guide
from headrace_server.engine.limits import Limits
from headrace_server.engine.profile import Profiled, StepProfile
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.engine.sleeper import Sleeper
from headrace_server.engine.stream import Stream
from headrace_server.engine.threads import EngineThreads
from headrace_server.errors import DeadlineExceeded, Draining, EngineFailed, NotNow, Overloaded, Refusal
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Phase, Priority, Request
from headrace_server.telemetry.work import ModelWork

__all__ = ["Engine", "Limits", "Load", "Outcome", "Runner", "Sampled", "Step"]

# Tokens that an offline answer is passed on in: nobody waits for the next one, and passing on is work in the core that
# computes the steps of those who do.
OFFLINE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Load:
    waiting: int  # admitted, in no step yet
    running: int
    oldest_waiting_seconds: float
    kv_pages_free: int
    kv_pages_total: int


class Engine:
    """All methods belong to one event loop."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        limits: Limits,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        work: ModelWork | None = None,
    ) -> None:
        """`work`: what the model's steps cost, for the metrics; None = not known."""
        limits.check_pages(config.page_size)
        self._overlap = config.overlap
        self._admission = Admission(config)
        self._limits = limits
        self._clock = clock
        self._runner = runner
        self._profiling = False
        self._asleep = False
        self._sleep_or_wake = asyncio.Lock()
        self._scheduler = Scheduler(config, limits.kv_pages)
        self._threads = EngineThreads("engine", self._hear)
        self._core = Core(runner, self._scheduler, clock, self._threads.tell)
        self._account = Account(metrics, self._scheduler, self._core, config, clock, work=work)
        self._streams: dict[Sequence, Stream] = {}  # of every request that has not ended
        expose_adapters(metrics, limits.adapters, self._streams)
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._failure: EngineFailed | None = None

    def submit(self, request: Request) -> Stream:
        """Checks now, then yields tokens. Close it (aclosing) to cancel.

        Raises InvalidRequest (could never run), Overloaded (no room now), DeadlineExceeded, Draining, or EngineFailed.
        The stream ends with DeadlineExceeded when the deadline passes.
        """
        self._check_open(request)
        sequence = self._sequence(request)
        stream = self._streams[sequence] = Stream(
            lambda finish: self._core.end(sequence, finish), OFFLINE_TOKENS if request.priority is Priority.BATCH else 1
        )
        self._admission.admitted(request, self._clock())
        self._account.admitted(request)
        self._empty.clear()
        self._core.submit(sequence)
        return stream

    async def run(self) -> None:
        """Until cancelled. Raises EngineFailed when a forward pass breaks; every open stream gets it too."""
        await self._threads.run([partial(self._core.run, self._overlap)], self._core.stop, self._fail)

    async def profile(self, steps: int, path: Path, patience: float) -> int:
        """Writes a Chrome trace of so many steps, and says how many it holds: fewer when no more came in `patience`
        seconds; 0 when none did, and nothing was written. Raises NotNow."""
        if not isinstance(self._runner, Profiled):
            raise NotNow("what computes here cannot be profiled")
        if self._profiling:
            raise NotNow("another profile is being made; ask again when it is done")
        self._profiling = True
        try:
            recorder = self._runner.recorder
            profile = StepProfile(recorder, steps)
            self._core.profile(profile)
            ended = asyncio.wrap_future(profile.ended)
            await self._wait_or_end(ended, patience)
            if held := ended.result():
                await asyncio.to_thread(recorder.save, path)
            return held
        finally:
            self._profiling = False

    async def _wait_or_end(self, ended: "asyncio.Future[int]", patience: float) -> None:
        """Also when the caller hangs up: the engine's thread must have let go of the recorder."""
        try:
            await asyncio.wait((ended,), timeout=patience)
        finally:
            if not ended.done():
                self._core.end_profile()
                await asyncio.shield(ended)

    @property
    def asleep(self) -> bool:
        """True from the moment on from which requests are refused for it."""
        return self._asleep

    async def sleep(self) -> None:
        """Gives the KV cache's memory back, once what was admitted has run to its end; the weights stay.

        Raises NotNow.
        """
        if not isinstance(self._runner, Sleeper):
            raise NotNow("what computes here holds no KV cache that could be given back")
        async with self._sleep_or_wake:
            if not self._asleep:
                await self._fall_asleep(self._runner)

    async def wake_up(self) -> None:
        """Raises NotNow when there is no memory for the KV cache; it sleeps on then."""
        async with self._sleep_or_wake:
            if self._asleep and isinstance(self._runner, Sleeper):
                try:
                    await asyncio.shield(asyncio.wrap_future(self._core.when_idle(self._runner.wake_up)))
                except MemoryError as fault:
                    raise NotNow(f"somebody else has the memory for the KV cache: {fault}") from fault
                self._asleep = False

    async def _fall_asleep(self, runner: Sleeper) -> None:
        def let_go() -> None:
            self._scheduler.pages.forget()
            runner.sleep()

        self._asleep = True
        try:
            await self.drained()
        except asyncio.CancelledError:  # the caller did not wait for it
            self._asleep = False
            raise
        await asyncio.shield(asyncio.wrap_future(self._core.when_idle(let_go)))

    def begin_drain(self) -> None:
        """From now on submit raises Draining; what was admitted runs to its end."""
        self._draining = True

    async def drained(self) -> None:
        """Returns when nothing is waiting or running."""
        await self._empty.wait()

    def load(self) -> Load:
        pages = self._scheduler.pages
        return Load(
            waiting=self._core.waiting,
            running=self._scheduler.running,
            oldest_waiting_seconds=self._core.oldest_waiting(self._clock()),
            kv_pages_free=pages.available,
            kv_pages_total=pages.total,
        )

    def _sequence(self, request: Request) -> Sequence:
        guide = None if request.grammar is None else Guide(request.grammar, self._limits.vocab_size)
        return self._scheduler.prepared(_with_seed(request), guide)

    def _hear(self, news: News) -> None:
        if self._failure is not None:  # everybody has been told
            return
        self._account.heard(news)
        for sequence, token in news.committed.tokens:
            stream = self._streams[sequence]
            began = sequence.request.arrived_at + (sequence.queue_wait or 0.0)
            self._account.token(sequence, news.now, stream.times.token(news.now, began))
            # An answer that its own grammar broke ends with the cause instead of the token.
            stream.put(sequence.fault if token.finish is Finish.FAILED and sequence.fault is not None else token)
        for sequence in news.committed.ended:
            if sequence.finish is Finish.EXPIRED:
                self._streams[sequence].put(_too_late(sequence))
            self._forget(sequence, news.now)

    def _forget(self, sequence: Sequence, now: float) -> None:
        stream = self._streams.pop(sequence)
        self._account.ended(sequence, now, stream.times)
        self._admission.ended(sequence.request, sequence.tokens_computed)
        if not self._streams:
            self._empty.set()

    def _fail(self, failure: EngineFailed, broken: Exception | None) -> None:
        if broken is not None:
            self._account.broke(broken)
        self._failure = failure
        for sequence, stream in tuple(self._streams.items()):
            sequence.finish = Finish.FAILED
            stream.put(failure)
            self._forget(sequence, self._clock())

    def _check_open(self, request: Request) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise Draining("this replica is shutting down; another one will answer")
        if self._asleep:
            raise Draining("this replica sleeps; another one will answer, or this one after POST /wake_up")
        self._limits.check(request)
        now = self._clock()
        try:
            self._admission.check(request, self._core.backlog(now), now)
        except DeadlineExceeded:
            self._account.expired(Phase.DOOR)
            raise
        except Overloaded as refused:
            if refused.reason is not Refusal.TENANT_LIMIT:
                self._account.no_room(request)
            raise


def _too_late(sequence: Sequence) -> DeadlineExceeded:
    started = sequence.queue_wait is not None
    where = f"after {len(sequence.answer)} tokens of the answer" if started else "while the request waited"
    return DeadlineExceeded(f"the deadline passed {where}", started=started)


def _with_seed(request: Request) -> Request:
    if request.sampling.seed is not None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(63)))
