"""The unary methods: tokens, what is served, load, drain. And health and reflection, as tools ask for them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from embed_server import embed_server
from engines import until
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_errors import fields_in, reason_in, status_in
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from headrace_server.request import Priority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.readiness import Phase
from open_server import CONTEXT, NAME, a_stub, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

UID = "0b6f7c1e-pod"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
INFERENCE, OIP = "headrace.v1.Inference", "inference.GRPCInferenceService"


@pytest.mark.parametrize("text", ["In the beginning", "", "naïve 你好 😀", "a" * 6000])
async def test_a_text_becomes_the_models_tokens_and_text_again(model: Path, runner: ScriptedRunner, text: str) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        found = await stub.Tokenize(pb.TokenizeRequest(text=text), timeout=120)
        back = await stub.Detokenize(pb.DetokenizeRequest(tokens=found.tokens), timeout=120)
    assert list(found.tokens.ids) == tiny_tokenizer().encode(text).ids
    assert found.max_context == CONTEXT
    assert back.text == text


async def test_a_chat_is_written_with_the_models_template_and_answered(model: Path, runner: ScriptedRunner) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="In")])
    async with open_server(model, runner) as server, a_stub(server) as stub:
        found = await stub.Tokenize(pb.TokenizeRequest(chat=chat))
        back = await stub.Detokenize(pb.DetokenizeRequest(tokens=found.tokens))
        replies = [reply async for reply in stub.Generate(pb.GenerateRequest(chat=chat, max_new_tokens=2))]
    assert back.text == "[user] In\n[assistant] "  # the leading <s> is a special token
    assert replies[-1].usage.prompt_tokens == len(found.tokens.ids)


REFUSED = [
    pytest.param("Tokenize", pb.TokenizeRequest(), "prompt", id="nothing to tokenise"),
    pytest.param("Tokenize", pb.TokenizeRequest(chat=pb.Chat()), "chat", id="no messages"),
    pytest.param("Detokenize", pb.DetokenizeRequest(tokens=pb.TokenIds(ids=[4_000_000])), "tokens", id="no such token"),
]


@pytest.mark.parametrize(("method", "message", "field"), REFUSED)
async def test_what_the_tokenizer_cannot_take_is_refused_with_its_field(
    model: Path, runner: ScriptedRunner, method: str, message: Any, field: str
) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await getattr(stub, method)(message)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_in(status_in(failed.value)) == [field]


async def test_info_names_the_model_and_its_limits(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        info = await stub.ModelInfo(pb.ModelInfoRequest())
    assert (info.name, info.task, info.max_context) == (NAME, pb.TASK_GENERATE, CONTEXT)
    assert (info.vocab_size, list(info.eos_token_ids), info.dimensions) == (tiny_tokenizer().get_vocab_size(), [1], 0)


async def test_load_says_what_runs_and_what_waits(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=2) as server, a_stub(server) as stub:
        idle = await stub.Load(pb.LoadRequest())
        runner.gate.clear()  # the first step holds the first call; the others come while it does
        calls = [stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=20)) for _ in range(5)]
        await server.until_inside(5)
        await until(lambda: runner.launched > 0)
        busy = await stub.Load(pb.LoadRequest())
        runner.gate.set()
        for call in calls:
            [reply async for reply in call]
        await server.doors.turn_away(Phase.DRAINING)
        leaving = await stub.Load(pb.LoadRequest())
    assert (idle.waiting, idle.running, idle.max_running, idle.inside, idle.ready) == (0, 0, 2, 0, True)
    assert idle.kv_pressure == 0
    assert {each.priority: each.seconds for each in idle.predicted_waits} == {
        pb.PRIORITY_INTERACTIVE: 0.0, pb.PRIORITY_STANDARD: 0.0, pb.PRIORITY_BATCH: 0.0,
    }  # fmt: skip
    assert (busy.waiting + busy.running, busy.inside) == (5, 5)
    assert 1 <= busy.running <= 2
    assert 0 < busy.kv_pressure <= 1
    assert not leaving.ready
    assert len(idle.predicted_waits) == len(Priority)


TOKENS = [
    pytest.param(UID, (("authorization", f"Bearer {UID}"),), None, id="the pod's UID"),
    pytest.param(UID, (), "FORBIDDEN", id="no token"),
    pytest.param(UID, (("authorization", "Bearer other"),), "FORBIDDEN", id="another pod's UID"),
    pytest.param(None, (("authorization", "Bearer None"),), "FORBIDDEN", id="a server that was given no UID"),
]


@pytest.mark.parametrize(("uid", "metadata", "refused"), TOKENS)
async def test_only_the_pods_uid_drains(
    model: Path, runner: ScriptedRunner, uid: str | None, metadata: Any, refused: str | None
) -> None:
    async with open_server(model, runner, differs={"drain_token": uid}) as server, a_stub(server) as stub:
        if refused is None:
            assert (await stub.Drain(pb.DrainRequest(), metadata=metadata)).inside == 0
        else:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Drain(pb.DrainRequest(), metadata=metadata)
            assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert reason_in(status_in(failed.value)) == refused
        assert server.doors.drain_call.asked.is_set() is (refused is None)


async def test_every_method_says_unavailable_before_the_model_is_warm(model: Path, runner: ScriptedRunner) -> None:
    asked: dict[str, Any] = {
        "GenerateBatch": pb.GenerateBatchRequest(requests=[pb.GenerateRequest(text="In")]),
        "Embed": pb.EmbedRequest(inputs=[pb.EmbedInput(text="In")]),
        "Rerank": pb.RerankRequest(query="In", documents=["the"]),
        "Tokenize": pb.TokenizeRequest(text="In"),
        "Detokenize": pb.DetokenizeRequest(),
        "ModelInfo": pb.ModelInfoRequest(),
    }
    async with open_server(model, runner, ready=False) as server, a_stub(server) as stub:
        for method, message in asked.items():
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await getattr(stub, method)(message)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE, method
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.EmbedStream(iter([])).read()
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not (await stub.Load(pb.LoadRequest())).ready


async def test_health_has_each_service_and_a_watch_hears_of_the_drain(model: Path) -> None:
    async with embed_server(model, ready=False) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", INFERENCE, OIP)]
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 3
        await server.doors.grpc.say_serving()
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
        await server.doors.turn_away(Phase.DRAINING)
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 3
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def reflect(channel: grpc.aio.Channel, version: str, *asked: dict[str, str]) -> list[Any]:
    """A client of that version: its messages are the same bytes in both."""
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def requests() -> AsyncIterator[Any]:
        for each in asked:
            yield reflection_pb2.ServerReflectionRequest(**each)

    return [answer async for answer in method(requests(), timeout=120)]


async def files_of(channel: grpc.aio.Channel, version: str, symbol: str) -> descriptor_pool.DescriptorPool:
    """All that a tool fetches to understand a symbol."""
    pool, raw = descriptor_pool.DescriptorPool(), {}
    [answer] = await reflect(channel, version, {"file_containing_symbol": symbol})
    wanted = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    while wanted:
        file = wanted.pop()
        if file.name not in raw:
            raw[file.name] = file
            for name in file.dependency:
                [answer] = await reflect(channel, version, {"file_by_filename": name})
                found = answer.file_descriptor_response.file_descriptor_proto
                wanted += [descriptor_pb2.FileDescriptorProto.FromString(each) for each in found]
    left = dict(raw)
    while left:
        ready = [name for name, file in left.items() if not set(file.dependency) & set(left)]
        for name in ready:
            pool.Add(left.pop(name))
    return pool


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_every_service_in_both_versions(model: Path, version: str) -> None:
    async with embed_server(model) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        [listed] = await reflect(channel, version, {"list_services": ""})
        names = [service.name for service in listed.list_services_response.service]
        described = {name: await files_of(channel, version, name) for name in names}
    assert {INFERENCE, OIP, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(names)
    for name, pool in described.items():
        assert pool.FindServiceByName(name).methods
    methods = [method.name for method in described[INFERENCE].FindServiceByName(INFERENCE).methods]
    assert {"Generate", "GenerateBatch", "Embed", "EmbedStream", "Rerank", "Tokenize", "Load", "Drain"} <= set(methods)


async def test_a_symbol_that_is_not_there_is_not_found(model: Path) -> None:
    async with embed_server(model) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        [answer] = await reflect(channel, "v1", {"file_containing_symbol": "no.such.Service"})
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_an_old_client_that_knows_half_the_fields_is_still_understood(
    model: Path, runner: ScriptedRunner
) -> None:
    """Bytes as the first release wrote them: text = 1, max_new_tokens = 3."""
    raw = b"\n\x02In\x18\x02"
    async with open_server(model, runner) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        call = channel.unary_stream(f"/{INFERENCE}/Generate", lambda each: each, pb.GenerateReply.FromString)(raw)
        replies = [reply async for reply in call]
    assert replies[-1].usage.generated_tokens == 2
