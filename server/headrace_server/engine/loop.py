"""The heartbeat: plan a step, compute it in the one forward thread, hand the tokens to their streams."""

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from headrace_server.config import EngineConfig
from headrace_server.engine.account import Account
from headrace_server.engine.limits import Limits
from headrace_server.engine.scheduler import Committed, Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.engine.stream import Stream
from headrace_server.errors import Draining, EngineFailed, Overloaded
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Request

__all__ = ["Engine", "Limits", "Load", "Runner", "Step"]


class Runner(Protocol):
    def forward(self, step: Step) -> list[int]:
        """One new token id per chunk of the step that samples, in the step's order. Blocks on the device."""


@dataclass(frozen=True, slots=True)
class Load:
    waiting: int  # admitted, in no step yet
    running: int
    oldest_waiting_seconds: float
    kv_pages_free: int
    kv_pages_total: int


class Engine:
    """All methods belong to one event loop; only `Runner.forward` runs elsewhere."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        limits: Limits,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits.check_pages(config.page_size)
        self._runner = runner
        self._max_waiting = config.max_waiting
        self._limits = limits
        self._clock = clock
        self._scheduler = Scheduler(config, limits.kv_pages)
        self._account = Account(metrics, self._scheduler, config, clock)
        self._streams: dict[Sequence, Stream] = {}  # of every sequence that holds or awaits pages
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._failure: EngineFailed | None = None

    def submit(self, request: Request) -> Stream:
        """Checks now, then yields tokens. Close it (aclosing) to cancel.

        Raises InvalidRequest (could never run), Overloaded (the queue is full), Draining, or EngineFailed.
        """
        self._check_open(request)
        sequence = self._scheduler.add(_with_seed(request))
        stream = self._streams[sequence] = Stream(lambda finish: self._end(sequence, finish))
        self._account.admitted()
        self._empty.clear()
        self._arrived.set()
        return stream

    async def run(self) -> None:
        """Until cancelled. Raises EngineFailed when a forward pass breaks; every open stream gets it too."""
        forward_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")
        try:
            while True:
                await self._beat(forward_thread)
        except asyncio.CancelledError:
            self._fail(EngineFailed("the engine was stopped before the answer was complete"))
            raise
        except Exception as broken:
            failure = EngineFailed(f"the engine broke: {type(broken).__name__}: {broken}")
            self._fail(failure)
            raise failure from broken
        finally:
            forward_thread.shutdown(wait=False)  # a hung device must not take the event loop with it

    def begin_drain(self) -> None:
        """From now on submit raises Draining; what was admitted runs to its end."""
        self._draining = True

    async def drained(self) -> None:
        """Returns when nothing is waiting or running."""
        await self._empty.wait()

    def load(self) -> Load:
        scheduler = self._scheduler
        return Load(
            waiting=scheduler.waiting,
            running=scheduler.running,
            oldest_waiting_seconds=scheduler.oldest_waiting(self._clock()),
            kv_pages_free=scheduler.pages.free,
            kv_pages_total=scheduler.pages.total,
        )

    async def _beat(self, forward_thread: ThreadPoolExecutor) -> None:
        began = self._clock()
        step = self._scheduler.next_step(began)
        if step is None:
            await self._sleep()
            return
        self._account.planned(step)
        loop = asyncio.get_running_loop()
        token_ids = await loop.run_in_executor(forward_thread, self._runner.forward, step)
        now = self._clock()
        committed = self._scheduler.commit(step, token_ids)
        self._account.computed(step, now - began)
        self._deliver(committed, now)

    async def _sleep(self) -> None:
        self._scheduler.check()  # idle is the cheap moment: every page has to be back
        self._arrived.clear()
        await self._arrived.wait()

    def _deliver(self, committed: Committed, now: float) -> None:
        for sequence, token in committed.tokens:
            stream = self._streams[sequence]
            self._account.token(sequence, now, stream.last_token_at)
            stream.last_token_at = now
            stream.put(token)
        for sequence in committed.ended:
            self._forget(sequence, now)

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        if sequence in self._streams and self._scheduler.end(sequence, finish):
            self._forget(sequence, self._clock())

    def _forget(self, sequence: Sequence, now: float) -> None:
        del self._streams[sequence]
        self._account.ended(sequence, now)
        if not self._streams:
            self._empty.set()

    def _fail(self, failure: EngineFailed) -> None:
        self._failure = failure
        for sequence in self._scheduler.abandon(Finish.FAILED):
            self._streams[sequence].put(failure)
            self._forget(sequence, self._clock())

    def _check_open(self, request: Request) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise Draining("this replica is shutting down; another one will answer")
        self._limits.check(request)
        if self._scheduler.waiting >= self._max_waiting:
            # How long the head of the queue has waited is the best guess for a place behind its end.
            retry_after = max(1.0, self._scheduler.oldest_waiting(self._clock()))
            raise Overloaded(f"{self._max_waiting} requests are waiting already; try again later", retry_after)


def _with_seed(request: Request) -> Request:
    if request.sampling.seed is not None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(63)))
