"""The Open Inference Protocol over HTTP: /v2. Errors have its shape, {"error": "..."}, not OpenAI's."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from headrace_server.embedding import Embedded
from headrace_server.errors import InvalidRequest, ServerError
from headrace_server.rpc import oip
from headrace_server.rpc.body import JsonBody
from headrace_server.rpc.calls import Calls
from headrace_server.rpc.readiness import Phase
from headrace_server.rpc.replies import json_response
from headrace_server.rpc.status import http_headers, status_of

PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})  # asked by the kubelet, which has no key
BINARY = "Inference-Header-Content-Length"  # of the binary tensor extension, which Triton has
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    parameters: dict[str, Any] = {}


class _Input(_Part):
    datatype: str
    shape: list[int]
    data: list[Any]


class _Body(JsonBody):
    id: str | None = None
    parameters: dict[str, bool | int | str | float] = Field(default_factory=dict)
    inputs: Annotated[list[_Input], Field(min_length=1)]
    outputs: list[_Part] = Field(default_factory=list)


def oip_routes(calls: Calls) -> Sequence[web.RouteDef]:
    served = _Served(calls)
    model = "/v2/models/{model:[^/]+}"
    routes = [
        web.get("/v2/health/live", served.live),
        web.get("/v2/health/ready", served.ready),
        web.get("/v2", served.about_server),
    ]
    for path in (model, f"{model}/versions/{{version}}"):
        routes += [
            web.get(path, served.in_its_words(served.about_model)),
            web.get(f"{path}/ready", served.in_its_words(served.model_ready)),
            web.post(f"{path}/infer", served.in_its_words(served.infer)),
        ]
    return routes


class _Served:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def in_its_words(self, answer: Answer) -> Answer:
        async def answered(request: web.Request) -> web.StreamResponse:
            try:
                version = request.match_info.get("version", "")
                oip.check_model(self._calls.served.name, request.match_info["model"], version)
                return await answer(request)
            except ServerError as error:
                status = status_of(error)
                self._calls.count(error)
                return json_response({"error": str(error)}, status.http, http_headers(error))

        return answered

    async def live(self, _: web.Request) -> web.StreamResponse:
        return json_response({"live": True})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        return json_response({"ready": self._ready}, 200 if self._ready else 503)

    async def about_server(self, _: web.Request) -> web.StreamResponse:
        return json_response({"name": oip.SERVER, "version": oip.SERVER_VERSION, "extensions": []})

    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        return json_response({"name": request.match_info["model"], "ready": self._ready}, 200 if self._ready else 503)

    async def about_model(self, request: web.Request) -> web.StreamResponse:
        facts = oip.model_facts(self._calls.readiness)
        return json_response(
            {
                "name": request.match_info["model"],
                "versions": [oip.MODEL_VERSION],
                "platform": facts.platform,
                "inputs": facts.inputs,
                "outputs": facts.outputs,
            }
        )

    async def infer(self, request: web.Request) -> web.StreamResponse:
        with self._calls.arrivals.one():
            if BINARY in request.headers:
                raise InvalidRequest(BINARY, "belongs to the binary tensor extension, which is not served; send JSON")
            embedder = self._calls.readiness.embedder()
            body = _Body.parse(await request.read())
            tensors = [oip.Tensor(each.name, each.datatype, tuple(each.shape)) for each in body.inputs]
            ask = oip.embed_ask(tensors, _texts(body.inputs[0]), body.parameters, [each.name for each in body.outputs])
            found = await embedder.embed(self._calls.callers.complete(ask, request.headers))
            return json_response(_reply(request.match_info["model"], body.id, found))

    @property
    def _ready(self) -> bool:
        return self._calls.readiness.phase is Phase.READY


def _texts(tensor: _Input) -> list[str]:
    """Row-major, flat or nested as the shape is."""
    texts = [one for each in tensor.data for one in (each if isinstance(each, list) else [each])]
    if strange := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
        raise InvalidRequest("inputs", f"element {strange[0]} is not a string")
    return texts


def _reply(model: str, request_id: str | None, found: Embedded) -> dict[str, Any]:
    output = {
        "name": oip.OUTPUT,
        "datatype": oip.FLOAT,
        "shape": list(found.vectors.shape),
        "data": found.vectors.ravel(),
    }
    reply = {"model_name": model, "model_version": oip.MODEL_VERSION, "outputs": [output]}
    return reply if request_id is None else reply | {"id": request_id}
