"""The few requests that pass through Python, which Envoy cannot answer as they want to be.

A whole answer that another model may have to give instead, and a stream whose client wants to hear how long it waits,
and of a replica that dies in between.
Everything else never comes here: a hop costs every byte that passes it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from headrace_router.metrics import RouterMetrics
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.rules import FALLBACK, Fallback, is_unsure
from headrace_router.proxy import whole
from headrace_router.proxy.bootstrap import ANSWERS, HOP_HEADER
from headrace_router.proxy.question import Questions, asked, error_body, refused
from headrace_router.values import Door, Endpoint, Reason, Refusal, Secured, Sureness, Through

MOST_BODY = 8 << 20  # bytes: more than a replica takes, so that it is the replica who refuses
PROGRESS_SECONDS = 5.0  # between two comments
CONNECTS = aiohttp.ClientTimeout(total=None, sock_connect=1.0)  # the client's patience is the only other limit
# Of one connection, or of this hop: none of them passes it.
OWN = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "accept-encoding", *ANSWERS}
NOT_BACK = {"content-length", "transfer-encoding", "connection", "keep-alive", "content-encoding"}
CUT = Refusal(Reason.BROKEN, 1.0, "the replica that answered is gone; ask again")
NOBODY = Refusal(Reason.NO_REPLICA, 1.0, "no replica answered; ask again")


class Hop:
    def __init__(
        self,
        questions: Questions,
        fleet: Fleet,
        fallback: Fallback | None,
        metrics: RouterMetrics,
        clock: Callable[[], float],
        *,
        secured: Callable[[str], Secured | None] = lambda _: None,
    ) -> None:
        """`secured`: how a model's replicas speak TLS; None: they do not."""
        self._questions = questions
        self._fleet = fleet
        self._fallback = fallback
        self._metrics = metrics
        self._clock = clock
        self._secured = secured
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def listening(self, socket: Path) -> AsyncIterator[None]:
        server = web.Server(self.answer, request_factory=_request, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server)
        async with aiohttp.ClientSession(trust_env=False, timeout=CONNECTS) as self._session:
            await runner.setup()
            await web.UnixSite(runner, socket).start()
            try:
                yield
            finally:
                await runner.cleanup()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        through, stream, *named = request.headers[HOP_HEADER].split(" ")
        model = named[0] if named else ""  # a header ends with no space
        if through == Through.PROGRESS:
            return await self._with_comments(request, body, stream, model)
        assert self._fallback is not None
        return await self._whole(request, body, stream, self._fallback)

    async def _whole(self, request: web.BaseRequest, body: bytes, stream: str, fallback: Fallback) -> web.Response:
        """The first model's answer, or the other's where the first is unsure."""
        question = json.loads(body)
        asking = json.dumps(whole.with_logprobs(request.path, question)).encode()
        first = await self._read(request, asking, f"{stream}/1", fallback.origin)
        if first.status != HTTPStatus.OK:
            return first
        assert isinstance(first.body, bytes)
        answered = json.loads(first.body)
        said = whole.logprobs(request.path, answered)
        first.body = whole.as_asked(request.path, question, answered)
        if not is_unsure(fallback, said):
            return self._counted(first, Sureness.SURE)
        self._metrics.models.labels(fallback.to, FALLBACK).inc()
        second = await self._read(request, body, f"{stream}/2", fallback.to)
        # An unsure answer is more than none.
        if second.status != HTTPStatus.OK:
            return self._counted(first, Sureness.KEPT)
        return self._counted(second, Sureness.UNSURE)

    def _counted(self, response: web.Response, sureness: Sureness) -> web.Response:
        self._metrics.fallbacks.labels(sureness).inc()
        return response

    async def _read(self, request: web.BaseRequest, body: bytes, stream: str, model: str) -> web.Response:
        """One model's answer, in one piece."""
        async with self._sent(request, body, stream, model) as response:
            if isinstance(response, Refusal):
                return _refused(response)
            try:
                whole_body = await response.read()
            except (aiohttp.ClientError, TimeoutError):
                return _refused(CUT)
            headers = {**_back(response), "x-headrace-model": model}
            return web.Response(status=response.status, headers=headers, body=whole_body)

    async def _with_comments(
        self, request: web.BaseRequest, body: bytes, stream: str, model: str
    ) -> web.StreamResponse:
        """A stream with comments until a replica answers, and an event where that one dies in between."""
        sending = self._sent(request, body, f"{stream}/1", model)
        opening = asyncio.ensure_future(sending.__aenter__())
        try:
            if not self._fleet.would_hold(model, self._clock()):
                await asyncio.wait({opening}, timeout=PROGRESS_SECONDS)
            if opening.done():
                return await self._plain(request, opening.result())
            return await self._commented(request, opening)
        finally:
            opening.cancel()
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await sending.__aexit__(None, None, None)

    async def _plain(self, request: web.BaseRequest, answer: aiohttp.ClientResponse | Refusal) -> web.StreamResponse:
        """It answered soon enough: nothing was said yet."""
        if isinstance(answer, Refusal):
            return _refused(answer)
        response = web.StreamResponse(status=answer.status, headers=_back(answer))
        await response.prepare(request)
        await _pass_on(answer, response)
        return response

    async def _commented(
        self, request: web.BaseRequest, opening: asyncio.Future[aiohttp.ClientResponse | Refusal]
    ) -> web.StreamResponse:
        """The status is said at once; what goes wrong from here is an event."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        begun = self._clock()
        while not opening.done():
            await response.write(f": waiting for a replica, {self._clock() - begun:.0f} s\n\n".encode())
            await asyncio.wait({opening}, timeout=PROGRESS_SECONDS)
        answer = opening.result()
        if isinstance(answer, Refusal):
            await response.write(_event(error_body(answer)))
        elif answer.status != HTTPStatus.OK:
            await response.write(_event((await answer.read()).decode(errors="replace")))
        else:
            await _pass_on(answer, response)
        return response

    @asynccontextmanager
    async def _sent(
        self, request: web.BaseRequest, body: bytes, stream: str, model: str
    ) -> AsyncIterator[aiohttp.ClientResponse | Refusal]:
        """The answer of the first replica that gives one, as Envoy would have tried them."""
        wanted = asked(Door.HTTP, request.path, request.headers, body)
        answer = await self._questions.placed(stream, wanted, model)
        if isinstance(answer, Refusal):
            yield answer
            return
        reached = False
        try:
            for endpoint in answer.endpoints:
                response = await self._tried(endpoint, request, body, self._secured(model))
                if response is None:
                    continue
                reached = endpoint is answer.endpoints[0]
                async with response:
                    yield response
                return
            yield NOBODY
        finally:
            self._fleet.finished(stream, reached, self._clock())

    async def _tried(
        self, endpoint: Endpoint, request: web.BaseRequest, body: bytes, secured: Secured | None
    ) -> aiohttp.ClientResponse | None:
        """None for a replica that has not begun to answer: it cannot be reached, drains or loads."""
        assert self._session is not None
        url = f"{'https' if secured else 'http'}://{endpoint.host(Door.HTTP)}{request.path_qs}"
        try:
            response = await self._session.post(
                url, data=body, headers=_onward(request.headers), ssl=secured.context if secured else True,
                server_hostname=secured.name if secured else None,
            )  # fmt: skip
        except (aiohttp.ClientError, TimeoutError):
            return None
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.release()
            return None
        return response


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """As web.Server makes one, but for the size."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MOST_BODY)


def _refused(refusal: Refusal) -> web.Response:
    reply = refused(Door.HTTP, refusal)
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body)


def _onward(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in OWN}


def _back(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.lower() not in NOT_BACK}


async def _pass_on(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    """The rest of a stream, as it comes."""
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError):
        await response.write(_event(error_body(CUT)))


def _event(text: str) -> bytes:
    """As OpenAI's API says an error within a stream."""
    return f"data: {' '.join(text.splitlines())}\n\n".encode()
