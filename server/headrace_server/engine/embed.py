"""The embedder as the doors see it: texts in, vectors out. It lives in the event loop, its lanes in threads.

    EmbedAsk ──tokenise (a thread)──► one Sequence a text ──Feed──► batches ──lanes──► vectors ──► Embedded

Tokenising is off the event loop and ahead of the device: what waits is token ids.
"""

import asyncio
import time
from collections.abc import Callable
from collections.abc import Sequence as Row
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from headrace_server.config import EngineConfig
from headrace_server.embedding import EmbedAsk, Embedded, EmbedderFacts, Pair
from headrace_server.engine.admission import Admission
from headrace_server.engine.embed_account import EmbedAccount
from headrace_server.engine.embed_lanes import Feed, Lane, News, run_lane
from headrace_server.engine.embed_plan import Planner
from headrace_server.engine.sequence import Sequence
from headrace_server.engine.threads import EngineThreads
from headrace_server.engine.window import BatchingWindow
from headrace_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Refusal,
    ServerError,
)
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Phase, Request
from headrace_server.telemetry.work import ModelWork


class Tokeniser(Protocol):
    def encode(self, texts: Row[str | Pair], *, truncate: bool) -> list[list[int]]:
        """Called in a thread; lets go of the interpreter for what takes time. `truncate`: to the model's context."""


@dataclass(frozen=True, slots=True)
class EmbedModel:
    """What was loaded."""

    lanes: Row[Lane]
    tokeniser: Tokeniser
    facts: EmbedderFacts
    vocab_size: int
    enough_tokens: int | None = None  # see Planner
    work: ModelWork | None = None  # what a batch costs; None: nobody knows


@dataclass(frozen=True, slots=True)
class EmbedLoad:
    waiting: int  # texts
    running: int  # texts that are being computed


@dataclass(eq=False, slots=True)
class _Call:
    """One ask while it is inside."""

    whole: Request  # all of its texts as one, for who counts what a tenant has inside
    texts: tuple[Sequence, ...]
    vectors: NDArray[np.float32]  # (texts, all dimensions)
    done: "asyncio.Future[None]"
    left: int
    compute: float = 0.0  # seconds
    batches: set[int] = field(default_factory=set)


class EmbedEngine:
    """All methods belong to one event loop. An Embedder."""

    def __init__(
        self,
        model: EmbedModel,
        config: EngineConfig,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._facts = model.facts
        self._clock = clock
        self._feed = Feed(Planner(config, model.enough_tokens), BatchingWindow(config.batching_window), clock)
        self._admission = Admission(config)
        self._account = EmbedAccount(metrics, self._feed, config, len(model.lanes), clock, work=model.work)
        self._threads = EngineThreads("lane", self._hear)
        self._tokenising = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise")
        self._calls: dict[Sequence, tuple[_Call, int]] = {}  # of every text that has not ended; its place in the call
        self._inside = 0  # calls, those that are being tokenised included
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._failure: EngineFailed | None = None

    @property
    def facts(self) -> EmbedderFacts:
        return self._facts

    def load(self) -> EmbedLoad:
        return EmbedLoad(len(self._feed.planner), sum(self._feed.running.values()))

    async def embed(self, ask: EmbedAsk) -> Embedded:
        """Raises InvalidRequest naming `input` or `dimensions`, Overloaded, DeadlineExceeded, Draining, EngineFailed.

        Cancelling it frees what it holds: a place in the queue now, a place in a batch when the batch ends.
        """
        arrived_at = self._clock()
        self._check_open()
        self._check_dimensions(ask)
        self._inside += 1
        self._empty.clear()
        try:
            prompts = await self._prompts(ask)
            if self._failure is not None:
                raise self._failure
            return await self._computed(ask, prompts, arrived_at)
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def run(self) -> None:
        """Until cancelled. Raises EngineFailed when a batch breaks; every open call gets it too."""
        lanes = [partial(run_lane, lane, self._feed, self._clock, self._threads.tell) for lane in self._model.lanes]
        try:
            await self._threads.run(lanes, self._feed.stop, self._fail)
        finally:
            self._tokenising.shutdown(wait=False)

    def begin_drain(self) -> None:
        """From now on embed raises Draining; what was admitted runs to its end."""
        self._draining = True

    async def drained(self) -> None:
        """Returns when nothing is waiting or running."""
        await self._empty.wait()

    async def _prompts(self, ask: EmbedAsk) -> list[tuple[int, ...]]:
        """Token ids of each input, special ones included."""
        texts = [one for one in ask.inputs if not isinstance(one, tuple)]
        found = iter(await self._tokenised(texts, truncate=ask.truncate) if texts else [])
        prompts = [one if isinstance(one, tuple) else tuple(next(found)) for one in ask.inputs]
        most = self._facts.max_tokens
        if ask.truncate:
            prompts = [prompt[:most] for prompt in prompts]
        for place, prompt in enumerate(prompts):
            self._check(prompt, place)
        return prompts

    async def _tokenised(self, texts: list[str | Pair], *, truncate: bool) -> list[list[int]]:
        def timed() -> tuple[list[list[int]], float]:
            began = time.perf_counter()
            return self._model.tokeniser.encode(texts, truncate=truncate), time.perf_counter() - began

        found, seconds = await asyncio.get_running_loop().run_in_executor(self._tokenising, timed)
        self._account.tokenised(seconds)
        return found

    async def _computed(self, ask: EmbedAsk, prompts: list[tuple[int, ...]], arrived_at: float) -> Embedded:
        call = self._call(ask, prompts, arrived_at)
        self._admit(call)
        left = None if call.whole.deadline is None else call.whole.deadline - self._clock()
        finish = Finish.CANCELLED
        try:
            async with asyncio.timeout(left):
                await call.done
            finish = Finish.STOP
        except TimeoutError:
            finish = Finish.EXPIRED
            started = any(text.queue_wait is not None for text in call.texts)
            raise DeadlineExceeded(
                "the deadline passed " + ("while it was computed" if started else "while it waited"), started=started
            ) from None
        except ServerError:
            finish = Finish.FAILED
            raise
        finally:
            self._end(call, finish)
        waits = [text.queue_wait for text in call.texts if text.queue_wait is not None]
        vectors = _finished(call.vectors, ask.dimensions, normalise=self._normalises(ask))
        return Embedded(vectors, tuple(map(len, prompts)), min(waits), call.compute)

    def _call(self, ask: EmbedAsk, prompts: list[tuple[int, ...]], arrived_at: float) -> _Call:
        deadline = None if ask.timeout is None else arrived_at + ask.timeout

        def request(prompt: tuple[int, ...]) -> Request:
            return Request(
                id=uuid4().hex,
                prompt=prompt,
                max_new_tokens=0,
                arrived_at=arrived_at,
                tenant=ask.tenant,
                cache_scope=ask.cache_scope,
                priority=ask.priority,
                deadline=deadline,
                asked_before=ask.came_with.attempts_before > 0,
            )

        return _Call(
            whole=request(tuple(token for prompt in prompts for token in prompt)),
            texts=tuple(Sequence(request(prompt)) for prompt in prompts),
            vectors=np.empty((len(prompts), self._facts.dimensions), dtype=np.float32),
            done=asyncio.get_running_loop().create_future(),
            left=len(prompts),
        )

    def _admit(self, call: _Call) -> None:
        now = self._clock()
        try:
            self._admission.check(call.whole, self._feed.backlog(), now)
        except DeadlineExceeded:
            self._account.expired(Phase.DOOR)
            raise
        except Overloaded as refused:
            if refused.reason is not Refusal.TENANT_LIMIT:
                self._account.no_room(call.whole)
            raise
        self._admission.admitted(call.whole, now)
        self._account.admitted(call.whole, call.texts)
        for place, text in enumerate(call.texts):
            self._calls[text] = call, place
        self._feed.add(call.texts)

    def _end(self, call: _Call, finish: Finish) -> None:
        """Counts each text that has not ended yet; those that wait leave the queue."""
        now = self._clock()
        unended = [text for text in call.texts if text in self._calls]
        self._feed.drop(unended)
        for text in unended:
            del self._calls[text]
            self._account.ended(text, finish, now)
        computed = sum(len(text.request.prompt) for text in call.texts if text.queue_wait is not None)
        self._admission.ended(call.whole, computed)

    def _hear(self, news: News) -> None:
        self._account.computed(news)
        for text, vector in zip(news.batch.texts, news.computed.vectors, strict=True):
            if text not in self._calls:  # cancelled, or its time is over
                continue
            call, place = self._calls.pop(text)
            call.vectors[place] = vector
            call.left -= 1
            if id(news) not in call.batches:
                call.batches.add(id(news))
                call.compute += news.computed.busy
            self._account.ended(text, Finish.STOP, news.now)
            if not call.left and not call.done.done():
                call.done.set_result(None)

    def _fail(self, failure: EngineFailed, broken: Exception | None) -> None:
        if broken is not None:
            self._account.broke(broken)
        self._failure = failure
        for call in {id(call): call for call, _ in self._calls.values()}.values():
            if not call.done.done():
                call.done.set_exception(failure)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise Draining("this replica is shutting down; another one will answer")

    def _check_dimensions(self, ask: EmbedAsk) -> None:
        most = self._facts.dimensions
        if ask.dimensions is not None and not 1 <= ask.dimensions <= most:
            raise InvalidRequest("dimensions", f"is {ask.dimensions}; this model's vectors have 1 to {most}")

    def _check(self, prompt: tuple[int, ...], place: int) -> None:
        most = self._facts.max_tokens
        if not prompt:
            raise InvalidRequest("input", "has no tokens; leave it out", place=place)
        if len(prompt) > most:
            raise InvalidRequest(
                "input",
                f"has {len(prompt)} tokens, and at most {most} fit; shorten it, or ask to truncate",
                place=place,
            )
        for strange in (min(prompt), max(prompt)):
            if not 0 <= strange < self._model.vocab_size:
                raise InvalidRequest(
                    "input",
                    f"has the token id {strange}, which is outside 0..{self._model.vocab_size - 1} of this model",
                    place=place,
                )

    def _normalises(self, ask: EmbedAsk) -> bool:
        return self._facts.normalises if ask.normalise is None else ask.normalise


def _finished(vectors: NDArray[np.float32], dimensions: int | None, *, normalise: bool) -> NDArray[np.float32]:
    """Cut first (Matryoshka), then brought to length 1."""
    cut = vectors if dimensions is None else vectors[:, :dimensions]
    if not normalise:
        return np.ascontiguousarray(cut)
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    found: NDArray[np.float32] = cut / np.maximum(lengths, np.float32(1e-12))
    return found
