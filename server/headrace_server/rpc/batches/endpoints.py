"""OpenAI's /v1/files and /v1/batches. A caller sees what its own tenant has, and nothing of the others."""

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from headrace_server.errors import Draining, InvalidRequest
from headrace_server.rpc.batches.bodies import NewBatch, batch_body, file_body, listing, page_from
from headrace_server.rpc.batches.ledger import CannotCancel
from headrace_server.rpc.batches.lines import TASKS
from headrace_server.rpc.batches.store import Store
from headrace_server.rpc.batches.uploads import receive
from headrace_server.rpc.batches.values import Batch, File, Purpose
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.readiness import Phase, Readiness

MOST_FILES = 10_000  # of one list, and the default, as OpenAI's
MOST_BATCHES = 100
DEFAULT_BATCHES = 20
NO_STORE = "batches need a place where they are kept: start the server with --batch-store=DIRECTORY"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchEndpoints:
    """One method an endpoint; `batch_routes` gives them their paths."""

    store: Store
    callers: Callers
    readiness: Readiness
    wall_clock: Callable[[], float]  # seconds since 1970
    largest_file: int  # bytes

    async def upload(self, request: web.Request) -> web.StreamResponse:
        self._check_staying()
        tenant = self.callers.tenant(request.headers)
        shelf = self.store.shelf
        upload = await receive(request, shelf.new_path(), self.largest_file)
        file = File(upload.path.name, tenant, Purpose.INPUT, upload.filename, upload.size, int(self.wall_clock()))
        await self.store.do(shelf.sync_directory)
        await self.store.do(shelf.add, file)
        return web.json_response(file_body(file))

    async def files(self, request: web.Request) -> web.StreamResponse:
        page = page_from(request.query, MOST_FILES, MOST_FILES)
        tenant, purpose = self.callers.tenant(request.headers), request.query.get("purpose")
        found = await self.store.do(self.store.shelf.page, tenant, purpose, page)
        return web.json_response(listing([file_body(file) for file in found], page))

    async def file(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(file_body(await self._file(request)))

    async def content(self, request: web.Request) -> web.StreamResponse:
        file = await self._file(request)
        headers = {"Content-Type": "application/octet-stream"}
        return web.FileResponse(self.store.shelf.path(file.id), headers=headers)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        file = await self._file(request)
        if await self.store.do(self.store.ledger.needs_input, file.id):
            raise web.HTTPConflict(text=f"file {file.id} is being read by a batch; delete it when that is in_progress")
        await self.store.do(self.store.shelf.delete, file)
        return web.json_response({"id": file.id, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> web.StreamResponse:
        self._check_staying()
        order = NewBatch.parse(await request.read()).order(self.callers.tenant(request.headers))
        self._check_serves(order.endpoint)
        file = await self.store.do(self.store.shelf.find, order.tenant, order.input_file_id)
        if file is None or file.purpose is not Purpose.INPUT:
            raise InvalidRequest("input_file_id", f"there is no input file {order.input_file_id!r}; upload it first")
        batch = await self.store.do(self.store.ledger.create, order, int(self.wall_clock()))
        self.store.tell()
        return web.json_response(batch_body(batch))

    async def batches(self, request: web.Request) -> web.StreamResponse:
        page = page_from(request.query, DEFAULT_BATCHES, MOST_BATCHES)
        found = await self.store.do(self.store.ledger.page, self.callers.tenant(request.headers), page)
        return web.json_response(listing([batch_body(batch) for batch in found], page))

    async def batch(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(batch_body(await self._batch(request)))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        batch = await self._batch(request)
        try:
            cancelled = await self.store.do(self.store.ledger.cancel, batch, int(self.wall_clock()))
        except CannotCancel as too_late:
            raise web.HTTPConflict(text=str(too_late)) from too_late
        self.store.tell()
        return web.json_response(batch_body(cancelled))

    def _check_serves(self, endpoint: str) -> None:
        """Raises InvalidRequest; before the model is loaded nobody knows, and each line says it in the end."""
        task = self.readiness.task
        if task is not None and task not in TASKS[endpoint]:
            others = [url for url, tasks in TASKS.items() if task in tasks]
            raise InvalidRequest("endpoint", f"is {endpoint}; this model is served for {' and '.join(others)}")

    def _check_staying(self) -> None:
        """Raises Draining: what is taken in now would wait until this replica is started again, if ever."""
        if self.readiness.phase in {Phase.DRAINING, Phase.FAILED}:
            raise Draining("this replica is shutting down; another one will take it")

    async def _file(self, request: web.Request) -> File:
        tenant, file_id = self.callers.tenant(request.headers), request.match_info["file"]
        file = await self.store.do(self.store.shelf.find, tenant, file_id)
        if file is None:
            raise web.HTTPNotFound(text=f"there is no file {file_id!r} on this replica")
        return file

    async def _batch(self, request: web.Request) -> Batch:
        tenant, batch_id = self.callers.tenant(request.headers), request.match_info["batch"]
        batch = await self.store.do(self.store.ledger.find, tenant, batch_id)
        if batch is None:
            raise web.HTTPNotFound(text=f"there is no batch {batch_id!r} on this replica")
        return batch


def batch_routes(endpoints: BatchEndpoints | None) -> list[web.RouteDef]:
    """None: nothing is kept here, and every path says so."""
    if endpoints is None:
        return [web.route("*", f"/v1/{name}{{rest:(/.*)?}}", _no_store) for name in ("files", "batches")]
    routes = [
        ("POST", "/v1/files", endpoints.upload),
        ("GET", "/v1/files", endpoints.files),
        ("GET", "/v1/files/{file}", endpoints.file),
        ("GET", "/v1/files/{file}/content", endpoints.content),
        ("DELETE", "/v1/files/{file}", endpoints.delete),
        ("POST", "/v1/batches", endpoints.create),
        ("GET", "/v1/batches", endpoints.batches),
        ("GET", "/v1/batches/{batch}", endpoints.batch),
        ("POST", "/v1/batches/{batch}/cancel", endpoints.cancel),
    ]
    return [web.route(method, path, _or_insufficient(handler)) for method, path, handler in routes]


def _or_insufficient(handler: Handler) -> Handler:
    """507 when the store fails, as on a full disk: nothing was accepted, and the client hears of it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ConnectionError:  # an OSError too, but of the client's connection
            raise
        except (sqlite3.Error, OSError) as broken:
            log.exception("the batch store failed")
            raise web.HTTPInsufficientStorage(text=f"the batch store failed: {broken}") from broken

    return answer


async def _no_store(_: web.Request) -> web.StreamResponse:
    # 404 and not 501, which OpenAI's client would take for a passing fault and try again.
    raise web.HTTPNotFound(text=NO_STORE)
