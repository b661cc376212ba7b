"""The question that Envoy asks before it sends a request anywhere, answered from the pickers.

Envoy's external authorisation over HTTP: 200 with a header that names hosts, or the refusal that the client gets. A
question may stay open while the request is held; Envoy takes it back when the client leaves.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from math import ceil

from headrace_router.metrics import RouterMetrics
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.rules import DEFAULT, Rules, Traits
from headrace_router.proxy import prompt
from headrace_router.proxy.bootstrap import (
    CHOSEN_HEADER,
    ENDPOINT_HEADER,
    FAIRNESS_HEADER,
    HOP_HEADER,
    LENGTH_HEADER,
    MIRROR_HEADER,
    PROGRESS_HEADER,
    PROMPTED,
    STREAM_HEADER,
    mirror,
)
from headrace_router.values import Asked, Door, Pick, Reason, Refusal, Reply, Through

# Questions about the process itself: whoever asks wants to hear now that no replica is there.
NEVER_HELD = ("/health", "/ready", "/grpc.health.v1.Health/", "/grpc.reflection.", "/metrics", "/load")
RESOURCE_EXHAUSTED, UNAVAILABLE = "8", "14"  # of gRPC
Answer = Pick | Refusal


@dataclass(frozen=True, slots=True)
class Seen:
    """A request, as far as it is shown before it goes anywhere."""

    path: str
    headers: Mapping[str, str]  # names in lower case, or in any
    beginning: bytes  # of its body
    asked: Asked
    model: str


class Questions:
    """Answers Envoy, at once or when a picker has released the request."""

    def __init__(self, fleet: Fleet, rules: Rules, metrics: RouterMetrics, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._rules = rules
        self._metrics = metrics
        self._requests = cache(metrics.requests.labels)  # looked up for every request
        self._revisions = cache(metrics.revisions.labels)
        self._clock = clock
        self._open: dict[str, asyncio.Future[Answer]] = {}  # by stream, of requests that are held

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply | asyncio.Future[Reply]:
        """Of one question. To be waited for where the request is held; cancelled, it is held no longer."""
        door = Door(path.split("/", 2)[1])
        stream = headers[STREAM_HEADER]
        seen = self._seen(door, path.partition("?")[0][len(door) + 1 :], headers, body)
        through = self._through(seen)
        if through is not None:
            return Reply(HTTPStatus.OK, {HOP_HEADER: f"{through} {stream} {seen.model}"})
        answer = self._fleet.ask(stream, seen.asked, seen.model, self._clock())
        if answer is None:
            return self._later(stream, door, seen.model)
        return _reply(door, seen.model, self._counted(door, answer))

    async def placed(self, stream: str, asked: Asked, model: str) -> Answer:
        """Where a request goes, once it is known. Who is cancelled meanwhile is held no longer."""
        answer = self._fleet.ask(stream, asked, model, self._clock())
        return self._counted(asked.door, await self._hold(stream) if answer is None else answer)

    def _later(self, stream: str, door: Door, model: str) -> asyncio.Future[Reply]:
        """Of a request that is held from now on."""
        held, reply = self._hold(stream), asyncio.get_running_loop().create_future()

        def answered(found: asyncio.Future[Answer]) -> None:
            if not (found.cancelled() or reply.done()):
                reply.set_result(_reply(door, model, self._counted(door, found.result())))

        held.add_done_callback(answered)
        reply.add_done_callback(lambda _: held.cancel())  # nothing to do where it is answered
        return reply

    def _counted(self, door: Door, answer: Answer) -> Answer:
        self._requests(door, answer.reason).inc()
        if isinstance(answer, Pick):
            self._revisions(answer.endpoints[0].revision).inc()
            if answer.is_mirrored:
                self._metrics.mirrored.inc()
        return answer

    def settle(self) -> None:
        """Answers what the pickers let go on now."""
        self.tell(self._fleet.released(self._clock()))

    def tell(self, answers: Iterable[tuple[str, Answer]]) -> None:
        for stream, answer in answers:
            future = self._open.get(stream)
            if future is None or future.done():  # its client left in this very moment
                self._fleet.finished(stream, True, self._clock())
            else:
                future.set_result(answer)

    def _seen(self, door: Door, path: str, headers: Mapping[str, str], body: bytes) -> Seen:
        model, rule = self._rules.default, DEFAULT
        if self._rules.rules:
            model, rule = self._rules.chosen(traits(door, headers, body))
        if model and path in PROMPTED[door]:  # the only model has no name
            self._metrics.models.labels(model, rule).inc()
        return Seen(path, headers, body, asked(door, path, headers, body), model)

    def _through(self, seen: Seen) -> Through | None:
        """Why it passes through Python; None for almost all requests, which do not."""
        if seen.asked.door is not Door.HTTP or seen.path not in PROMPTED[Door.HTTP]:
            return None
        fallback = self._rules.fallback
        if fallback is not None and fallback.origin == seen.model and prompt.is_whole(seen.beginning):
            return Through.FALLBACK
        wants_progress = seen.headers.get(PROGRESS_HEADER) == "comments" and prompt.is_streamed(seen.beginning)
        return Through.PROGRESS if wants_progress else None

    def _hold(self, stream: str) -> asyncio.Future[Answer]:
        """At once: an answer may come before anybody waits for it. Cancelled, the request is held no longer."""
        begun, future = self._clock(), asyncio.get_running_loop().create_future()
        self._open[stream] = future

        def over(found: asyncio.Future[Answer]) -> None:
            del self._open[stream]
            if found.cancelled():
                self._fleet.gave_up(stream)
            else:
                self._metrics.held_seconds.observe(self._clock() - begun)

        future.add_done_callback(over)
        return future


def asked(door: Door, path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    # Who a caller is, the replica finds out; here it is enough that two callers are seldom taken for one.
    caller = headers.get(FAIRNESS_HEADER) or headers.get("authorization") or headers.get("x-forwarded-for") or ""
    beginning = prompt.of_grpc(body) if door is Door.GRPC else prompt.of_json(body)
    return Asked(door, prompt.affinity(caller, beginning), caller, may_wait=not path.startswith(NEVER_HELD))


def traits(door: Door, headers: Mapping[str, str], body: bytes) -> Traits:
    """What rules look at."""
    said = headers.get(LENGTH_HEADER, "")
    length = prompt.length_of_grpc(body) if door is Door.GRPC else int(said) if said.isdigit() else len(body)
    named = {name.lower(): value for name, value in headers.items()}
    return Traits(named, headers.get(FAIRNESS_HEADER, ""), length, body)


def _reply(door: Door, model: str, answer: Answer) -> Reply:
    if isinstance(answer, Refusal):
        return refused(door, answer)
    headers = {ENDPOINT_HEADER: ",".join(endpoint.host(door) for endpoint in answer.endpoints)}
    if model:  # the only one has no name
        headers[CHOSEN_HEADER] = model
    if answer.is_mirrored:
        headers[MIRROR_HEADER] = mirror(door)
    return Reply(HTTPStatus.OK, headers)


def refused(door: Door, refusal: Refusal) -> Reply:
    """As its door says it."""
    full = refusal.reason is Reason.TOO_MANY_HELD
    status = HTTPStatus.TOO_MANY_REQUESTS if full else HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Retry-After": str(max(1, ceil(refusal.retry_after)))}
    if door is Door.GRPC:
        headers["grpc-status"] = RESOURCE_EXHAUSTED if full else UNAVAILABLE
        headers["grpc-retry-pushback-ms"] = str(round(refusal.retry_after * 1000))
        return Reply(status, {**headers, "Content-Type": "text/plain"}, refusal.message.encode())
    return Reply(status, {**headers, "Content-Type": "application/json"}, error_body(refusal).encode())


def error_body(refusal: Refusal) -> str:
    """In OpenAI's words."""
    full = refusal.reason is Reason.TOO_MANY_HELD
    error = {"message": refusal.message, "type": "rate_limit_error" if full else "server_error", "param": None,
             "code": "rate_limit_exceeded" if full else "service_unavailable"}  # fmt: skip
    return json.dumps({"error": error})
