"""Runs what the store holds, as offline work: nobody waits for it, and it ends only with a result.

news or time ─► each batch: its next move ─► free places are filled with requests ─► results are kept ─► news
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from headrace_server.errors import Draining, EngineFailed, Overloaded, ServerError
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Priority
from headrace_server.rpc.batches.lines import BODIES, Code, answered, unanswered
from headrace_server.rpc.batches.moves import Move, next_move
from headrace_server.rpc.batches.store import Store
from headrace_server.rpc.batches.values import Batch, Row
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import Body
from headrace_server.rpc.ranking import judged
from headrace_server.rpc.readiness import Readiness
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from headrace_server.rpc.shapes import Head, refusal_body
from headrace_server.rpc.status import status_of
from headrace_server.rpc.whole import in_the_words_of, whole

LOOK_AGAIN = 30.0  # seconds until time alone may have changed something
STORE_RETRY = 5.0  # seconds after which a store that failed, such as on a full disk, is tried again
T = TypeVar("T")
log = logging.getLogger(__name__)


class OfflineRunner:
    def __init__(
        self,
        store: Store,
        readiness: Readiness,
        metrics: ServerMetrics,
        *,
        model: str,
        adapters: tuple[str, ...] = (),
        concurrency: int,
        wall_clock: Callable[[], float],
    ) -> None:
        """`readiness`: of a model that is warm. `concurrency`: requests in the engine at once. `wall_clock`: seconds
        since 1970."""
        self._store = store
        self._readiness = readiness
        self._metrics = metrics
        self._model = model
        self._models = (model, *adapters)
        self._concurrency = concurrency
        self._wall_clock = wall_clock
        self._running: dict[asyncio.Task[None], str] = {}  # -> batch id

    async def run(self) -> None:
        """Until cancelled; what runs then is given back, for the next process."""
        try:
            while True:
                news = self._store.next_news()
                try:
                    await self._move_all()
                    await self._fill()
                except (sqlite3.Error, OSError):
                    log.exception("the batch store failed; trying again in %.0f s", STORE_RETRY)
                    await asyncio.sleep(STORE_RETRY)
                    continue
                await _until(news, LOOK_AGAIN)
        finally:
            await _cancel(self._running)

    async def _move_all(self) -> None:
        unfinished = await self._store.do(self._store.ledger.unfinished)
        self._metrics.batch_requests_left.set(sum(batch.total - batch.completed - batch.failed for batch in unfinished))
        for batch in unfinished:
            now = int(self._wall_clock())
            move = next_move(batch, now)
            if move is not Move.NONE:
                await self._make(move, batch, now)
                log.info("batch %s: %s", batch.id, move)
                self._store.tell()  # it may need another one

    async def _make(self, move: Move, batch: Batch, now: int) -> None:
        ledger = self._store.ledger
        match move:
            case Move.VALIDATE:
                await self._store.do(ledger.validate, batch, self._models, now)
            case Move.CANCEL:
                await self._cut_short(batch, Code.CANCELLED, "the batch was cancelled before this request ended", now)
            case Move.EXPIRE:
                await self._cut_short(
                    batch, Code.EXPIRED, "the completion window passed before this request ended", now
                )
            case Move.FINALIZE:
                await self._store.do(ledger.finalize, batch, now)

    async def _cut_short(self, batch: Batch, code: Code, message: str, now: int) -> None:
        await _cancel([task for task, batch_id in self._running.items() if batch_id == batch.id])
        await self._store.do(self._store.ledger.cut_short, batch, code, message, now)

    async def _fill(self) -> None:
        while len(self._running) < self._concurrency:
            row = await self._store.do(self._store.ledger.requests.take)
            if row is None:
                return
            task = asyncio.create_task(self._answer(row), name=f"{row.batch_id} line {row.number}")
            self._running[task] = row.batch_id
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._store.tell()

    async def _answer(self, row: Row) -> None:
        is_ok = False
        try:
            status, body = await self._until_answered(row)
            result = answered(row.custom_id, status, str(body.get("id", "")), body)
            is_ok = status == 200
        except asyncio.CancelledError:
            await self._store.do(self._store.ledger.requests.give_back, row)
            raise
        except EngineFailed:
            return  # the process ends, and the next one finds the request held: it may be the cause
        except Exception as bug:  # of this server; without a result the batch would never end
            log.exception("batch %s, line %d", row.batch_id, row.number)
            result = unanswered(row.custom_id, Code.SERVER_FAILED, f"{type(bug).__name__}: {bug}")
        await self._keep(row, result, is_ok=is_ok)

    async def _until_answered(self, row: Row) -> tuple[int, Mapping[str, Any]]:
        while True:
            try:
                return 200, await self._ask(row)
            except (Overloaded, Draining) as full:
                await asyncio.sleep(full.retry_after if isinstance(full, Overloaded) else STORE_RETRY)
            except EngineFailed:
                raise
            except ServerError as error:
                return status_of(error).http, refusal_body(error)

    async def _ask(self, row: Row) -> Mapping[str, Any]:
        body = BODIES[row.endpoint].of(json.loads(row.body))
        match body:
            case Body():
                return await self._generated(body, row)
            case EmbeddingBody():
                ask = replace(body.ask(), priority=Priority.BATCH, tenant=row.tenant)
                return _plain(body.reply(await self._readiness.embedder().embed(ask)))
            case RerankBody() | ScoreBody():
                found = await judged(
                    self._readiness.ranker(),
                    body.match(),
                    lambda ask: replace(ask, priority=Priority.BATCH, tenant=row.tenant),
                )
                return body.reply(found, int(self._wall_clock()))

    async def _generated(self, body: Body, row: Row) -> Mapping[str, Any]:
        answers = self._readiness.answers()
        adapter = "" if body.model == self._model else body.model
        with in_the_words_of(body):
            asks = [replace(ask, priority=Priority.BATCH, tenant=row.tenant, adapter=adapter) for ask in body.asks()]
            shape = body.shape(Head(body.model, int(self._wall_clock())), answers.tool_form)
            return await whole(answers, asks, body.choices, shape)

    async def _keep(self, row: Row, result: Mapping[str, Any], *, is_ok: bool) -> None:
        """An answer is not thrown away because the disk is full for a while."""
        while True:
            try:
                return await self._store.do(self._store.ledger.requests.record, row, result, is_ok=is_ok)
            except (sqlite3.Error, OSError):
                log.exception("a result could not be kept; trying again in %.0f s", STORE_RETRY)
                await asyncio.sleep(STORE_RETRY)


def _plain(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without numpy's arrays."""
    plain: Mapping[str, Any] = orjson.loads(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    return plain


async def _until(news: asyncio.Event, at_most: float) -> None:
    try:
        async with asyncio.timeout(at_most):
            await news.wait()
    except TimeoutError:
        return


async def _cancel(tasks: "dict[asyncio.Task[None], str] | list[asyncio.Task[None]]") -> None:
    several = list(tasks)
    for task in several:
        task.cancel()
    await asyncio.gather(*several, return_exceptions=True)
