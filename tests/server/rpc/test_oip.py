"""The Open Inference Protocol at both doors, as KServe's and Triton's clients speak it."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from embed_server import FACTS, EmbedServer, embed_server, vector_of
from grpc_errors import fields_in, status_in
from headrace_server.errors import Overloaded
from headrace_server.request import Priority
from headrace_server.rpc.pb import oip_pb2 as pb
from headrace_server.rpc.pb import oip_pb2_grpc
from headrace_server.rpc.readiness import Phase
from open_server import NAME, open_server
from scripted_runner import ScriptedRunner

TEXTS = ["naïve 你好", "b", "In the beginning"]
Contents = pb.InferTensorContents


@asynccontextmanager
async def a_stub(address: str) -> AsyncIterator[oip_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield oip_pb2_grpc.GRPCInferenceServiceStub(channel)


async def ask(base: str, method: str, path: str, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession(base) as session, session.request(method, path, **more) as response:
        return response.status, await response.json()


def raw_texts(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def request(*texts: str, raw: bool = False, shape: list[int] | None = None, **more: Any) -> pb.ModelInferRequest:
    tensor: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": shape or [len(texts)]}
    if not raw:
        tensor["contents"] = Contents(bytes_contents=[text.encode() for text in texts])
    contents = {"raw_input_contents": [raw_texts(*texts)]} if raw else {}
    fields: dict[str, Any] = {"model_name": NAME, "inputs": [tensor]} | contents | more
    return pb.ModelInferRequest(**fields)


def body(*texts: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}]} | more


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("shape", [[3], [3, 1]], ids=["[n]", "[n, 1]"])
async def test_texts_become_vectors_in_the_form_they_came_in(model: Path, raw: bool, shape: list[int]) -> None:
    async with embed_server(model) as server, a_stub(server.grpc) as stub:
        answer = await stub.ModelInfer(request(*TEXTS, raw=raw, shape=shape, id="42"), timeout=120)
    [output] = answer.outputs
    assert (answer.model_name, answer.model_version, answer.id) == (NAME, "1", "42")
    assert (output.name, output.datatype, list(output.shape)) == ("embedding", "FP32", [3, 384])
    found = np.frombuffer(answer.raw_output_contents[0], "<f4") if raw else np.array(output.contents.fp32_contents)
    np.testing.assert_array_equal(found.reshape(3, 384).astype(np.float32), [vector_of(text) for text in TEXTS])


async def test_parameters_reach_the_embedder_from_both_doors(model: Path) -> None:
    typed = {
        "dimensions": pb.InferParameter(int64_param=5),
        "normalize": pb.InferParameter(bool_param=False),
        "truncate": pb.InferParameter(bool_param=True),
        "priority": pb.InferParameter(string_param="batch"),
    }
    plain = {"dimensions": 5, "normalize": False, "truncate": True, "priority": "batch"}
    async with embed_server(model) as server, a_stub(server.grpc) as stub:
        over_grpc = await stub.ModelInfer(request("a", parameters=typed), timeout=120)
        status, over_http = await ask(server.http, "POST", f"/v2/models/{NAME}/infer", json=body("a", parameters=plain))
        first, second = server.embedder.asked
    assert status == 200
    assert list(over_grpc.outputs[0].shape) == over_http["outputs"][0]["shape"] == [1, 5]
    for asked in (first, second):
        assert (asked.dimensions, asked.normalise, asked.truncate, asked.priority) == (5, False, True, Priority.BATCH)
    assert first.timeout is not None
    assert first.timeout <= 121  # gRPC has three digits on the wire, and rounds up


INT, UINT = pb.InferParameter(int64_param=0), pb.InferParameter(uint64_param=3)
TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": Contents(bytes_contents=[b"a"])}
REFUSED = [
    pytest.param(request("a", model_name="other"), "model_name", id="another model"),
    pytest.param(request("a", model_version="2"), "model_version", id="another version"),
    pytest.param(request("a", inputs=[]), "inputs", id="no tensor"),
    pytest.param(request("a", inputs=[TENSOR, TENSOR]), "inputs", id="two tensors"),
    pytest.param(request("a", inputs=[TENSOR | {"name": "ids"}]), "inputs", id="another input"),
    pytest.param(request("a", inputs=[TENSOR | {"datatype": "FP32"}]), "inputs", id="another type"),
    pytest.param(request("a", inputs=[TENSOR | {"contents": Contents(fp32_contents=[1])}]), "inputs", id="numbers"),
    pytest.param(
        request("a", inputs=[TENSOR | {"contents": Contents(bytes_contents=[b"\xff"])}]), "inputs", id="no UTF-8"
    ),
    pytest.param(request("a", "b", shape=[3]), "inputs", id="another shape"),
    pytest.param(request("a", "b", shape=[1, 2]), "inputs", id="a row"),
    pytest.param(request("a", "b", shape=[-1]), "inputs", id="no shape"),
    pytest.param(request("a", ""), "inputs", id="an empty text"),
    pytest.param(request(*["a"] * 2049), "inputs", id="too many"),
    pytest.param(request(), "inputs", id="none"),
    pytest.param(request("a", raw_input_contents=[raw_texts("a")]), "raw_input_contents", id="both forms"),
    pytest.param(request("a", raw=True, raw_input_contents=[b"a", b"b"]), "raw_input_contents", id="two raw tensors"),
    pytest.param(request("a", raw=True, raw_input_contents=[b"\x05\0\0\0ab"]), "raw_input_contents", id="cut off"),
    pytest.param(request("a", raw=True, raw_input_contents=[b"\x05\0"]), "raw_input_contents", id="cut in a length"),
    pytest.param(request("a", outputs=[{"name": "logits"}]), "outputs", id="another output"),
    pytest.param(request("a", parameters={"dimension": INT}), "parameters", id="misspelt"),
    pytest.param(request("a", parameters={"dimensions": INT}), "parameters", id="no dimension"),
    pytest.param(request("a", parameters={"truncate": UINT}), "parameters", id="a number for a switch"),
    pytest.param(request("a", parameters={"dimensions": pb.InferParameter()}), "parameters", id="no value"),
    pytest.param(
        request("a", parameters={"priority": pb.InferParameter(string_param="now")}), "parameters", id="no class"
    ),
    pytest.param(request("a" * (FACTS.max_tokens + 1)), "input", id="the embedder's own refusal"),
]


@pytest.mark.parametrize(("message", "field"), REFUSED)
async def test_what_cannot_be_inferred_is_refused_with_its_field(
    model: Path, message: pb.ModelInferRequest, field: str
) -> None:
    async with embed_server(model) as server, a_stub(server.grpc) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelInfer(message)
    code = failed.value.code()
    assert code is (grpc.StatusCode.NOT_FOUND if field.startswith("model_") else grpc.StatusCode.INVALID_ARGUMENT)
    assert fields_in(status_in(failed.value)) == [field]


def without(**fields: Any) -> dict[str, Any]:
    found = body("a")
    found["inputs"][0].update(fields)
    return found


REFUSED_OVER_HTTP = [
    pytest.param(b"no json", "body: is not JSON", id="no JSON"),
    pytest.param({}, "inputs: Field required", id="no inputs"),
    pytest.param({"inputs": []}, "inputs", id="no tensor"),
    pytest.param(without(data=[1.5]), "element 0 is not a string", id="numbers"),
    pytest.param(without(shape=[2]), "inputs: has shape [2] and 1 elements", id="another shape"),
    pytest.param(without(shape="1"), "inputs.0.shape", id="no shape"),
    pytest.param(without(dat=[]), "is not a known field", id="misspelt"),
    pytest.param(body("a", parameters={"binary_data_output": True}), "not known here", id="binary tensors"),
    pytest.param(body("a", parameters={"dimensions": True}), "must be of type int", id="a switch for a number"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED_OVER_HTTP)
async def test_http_refuses_in_the_protocols_shape(model: Path, given: Any, says: str) -> None:
    data = {"data": given} if isinstance(given, bytes) else {"json": given}
    async with embed_server(model) as server:
        status, answer = await ask(server.http, "POST", f"/v2/models/{NAME}/infer", **data)
    assert status == 400
    assert says in answer["error"]


async def test_http_infers_and_returns_the_id(model: Path) -> None:
    nested = body("a", "b", id="7", outputs=[{"name": "embedding"}])
    nested["inputs"][0] |= {"shape": [2, 1], "data": [["a"], ["b"]]}
    async with embed_server(model) as server:
        for given in (body("a", "b", id="7"), nested):
            for path in (f"/v2/models/{NAME}/infer", f"/v2/models/{NAME}/versions/1/infer"):
                status, answer = await ask(server.http, "POST", path, json=given)
                assert (status, answer["model_name"], answer["model_version"], answer["id"]) == (200, NAME, "1", "7")
                [output] = answer["outputs"]
                assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [2, 384])
                found = np.array(output["data"], np.float32).reshape(2, 384)
                np.testing.assert_array_equal(found, [vector_of("a"), vector_of("b")])


async def test_http_refuses_the_binary_extension_other_models_and_a_full_queue(model: Path) -> None:
    async with embed_server(model) as server:
        path = f"/v2/models/{NAME}/infer"
        binary = await ask(server.http, "POST", path, data=b"{}", headers={"Inference-Header-Content-Length": "2"})
        other = await ask(server.http, "POST", "/v2/models/other/infer", json=body("a"))
        version = await ask(server.http, "GET", f"/v2/models/{NAME}/versions/2")
        server.embedder.failure = Overloaded("full", 3.2)
        full = await ask(server.http, "POST", path, json=body("a"))
    assert (binary[0], other[0], version[0], full[0]) == (400, 404, 404, 429)
    assert "binary tensor extension" in binary[1]["error"]
    assert full[1] == {"error": "full"}


async def test_both_doors_say_the_same_of_an_embedder(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server.grpc) as stub:
        facts = await stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME))
        about = await stub.ServerMetadata(pb.ServerMetadataRequest())
        _, over_http = await ask(server.http, "GET", f"/v2/models/{NAME}")
        _, server_over_http = await ask(server.http, "GET", "/v2")

    def shown(tensors: Any) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]

    assert over_http == {
        "name": facts.name,
        "versions": list(facts.versions),
        "platform": facts.platform,
        "inputs": shown(facts.inputs),
        "outputs": shown(facts.outputs),
    }
    assert over_http["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert over_http["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}]
    assert server_over_http == {"name": about.name, "version": about.version, "extensions": []}


async def test_readiness_follows_the_process_at_both_doors(model: Path) -> None:
    async def readiness(server: EmbedServer, stub: Any) -> list[bool]:
        over_http = [await ask(server.http, "GET", path) for path in ("/v2/health/ready", f"/v2/models/{NAME}/ready")]
        assert [status == 200 for status, _ in over_http] == [answer["ready"] for _, answer in over_http]
        assert (await ask(server.http, "GET", "/v2/health/live"))[0] == 200
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        over_grpc = [
            (await stub.ServerReady(pb.ServerReadyRequest())).ready,
            (await stub.ModelReady(pb.ModelReadyRequest(name=NAME))).ready,
        ]
        return over_grpc + [answer["ready"] for _, answer in over_http]

    async with embed_server(model, ready=False) as server, a_stub(server.grpc) as stub:
        assert await readiness(server, stub) == [False] * 4
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        server.doors.readiness.open(None, server.embedder)
        assert await readiness(server, stub) == [True] * 4
        await server.doors.turn_away(Phase.DRAINING)
        assert await readiness(server, stub) == [False] * 4
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelReady(pb.ModelReadyRequest(name="other"))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_model_that_generates_is_described_and_refuses_to_infer(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server.grpc) as stub:
        facts = await stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME))
        with pytest.raises(grpc.aio.AioRpcError, match="generates and does not embed"):
            await stub.ModelInfer(request("a"))
        status, answer = await ask(server.http, "POST", f"/v2/models/{NAME}/infer", json=body("a"))
    assert (facts.platform, len(facts.inputs), len(facts.outputs)) == ("headrace_generator", 0, 0)
    assert status == 400
    assert "generates and does not embed" in answer["error"]


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_a_client_that_hangs_up_cancels_what_it_asked(model: Path, door: str) -> None:
    async with embed_server(model) as server, a_stub(server.grpc) as stub:
        server.embedder.gate.clear()
        asking: Any = (
            stub.ModelInfer(request("a"))
            if door == "grpc"
            else asyncio.ensure_future(ask(server.http, "POST", f"/v2/models/{NAME}/infer", json=body("a")))
        )
        async with asyncio.timeout(120):
            while not server.embedder.asked:
                await asyncio.sleep(0.005)
            asking.cancel()
            while not server.embedder.cancelled or server.doors.arrivals.inside:
                await asyncio.sleep(0.005)
