"""The gRPC door, over a real connection."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from headrace_server.request import Finish
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.readiness import Phase
from open_server import CONTEXT, PAGES, a_stub, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "
ANSWER_TOKENS = len(tiny_tokenizer().encode(ANSWER).ids)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_text_and_tokens_stream_and_the_last_reply_carries_the_usage(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        request = pb.GenerateRequest(text="In the beginning", max_new_tokens=ANSWER_TOKENS)
        replies = [reply async for reply in stub.Generate(request)]

    assert "".join(reply.text for reply in replies) == ANSWER
    assert [token for reply in replies for token in reply.token_ids] == tiny_tokenizer().encode(ANSWER).ids
    assert not any("\ufffd" in reply.text for reply in replies)
    *others, last = replies
    assert {reply.finish_reason for reply in others} == {pb.FINISH_REASON_UNSPECIFIED}
    assert last.finish_reason == pb.FINISH_REASON_LENGTH
    assert last.usage.prompt_tokens == len(tiny_tokenizer().encode("In the beginning").ids)
    assert last.usage.generated_tokens == ANSWER_TOKENS
    assert 0 <= last.usage.queue_wait_seconds < last.usage.ttft_seconds


async def test_without_a_length_the_answer_has_sixteen_tokens(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        replies = [reply async for reply in stub.Generate(pb.GenerateRequest(text="In"))]
    assert replies[-1].usage.generated_tokens == 16


async def test_without_a_length_a_long_prompt_gets_what_the_context_leaves(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        prompt = pb.TokenIds(ids=[5] * (CONTEXT - 3))
        replies = [reply async for reply in stub.Generate(pb.GenerateRequest(tokens=prompt))]
    assert replies[-1].usage.generated_tokens == 3


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        pytest.param(["naïve"], "God created ", id="inside the text"),
        pytest.param(["好 😀"], "God created naïve 你", id="across tokens and in the middle of a word"),
        pytest.param(["void", "created"], "God ", id="the earlier one of two"),
        pytest.param(["God created n", "created"], "God ", id="the first to be complete, though another began earlier"),
        pytest.param(["never seen"], ANSWER, id="none"),
        pytest.param([". nor this"], ANSWER, id="begun at the end, held back, and delivered after all"),
    ],
)
async def test_a_stop_string_ends_the_answer_and_is_not_delivered(
    model: Path, runner: ScriptedRunner, stop: list[str], text: str
) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        request = pb.GenerateRequest(text="In", max_new_tokens=ANSWER_TOKENS, stop=stop)
        replies = [reply async for reply in stub.Generate(request)]
        await server.until_inside(0)
        finished = {outcome: server.sample("headrace_requests_finished_total", outcome=outcome) for outcome in Finish}

    assert "".join(reply.text for reply in replies) == text
    stopped = text != ANSWER
    assert replies[-1].finish_reason == (pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH)
    assert {outcome for outcome, count in finished.items() if count} == {Finish.STOP if stopped else Finish.LENGTH}


async def test_the_end_of_sequence_token_ends_the_answer_unless_it_is_to_be_ignored(model: Path) -> None:
    def hello_then_eos(_: tuple[int, ...]):
        yield from tiny_tokenizer().encode("God").ids
        while True:
            yield 1

    async with open_server(model, ScriptedRunner(hello_then_eos)) as server, a_stub(server) as stub:
        stopped = [reply async for reply in stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=9))]
        ignoring = pb.GenerateRequest(text="In", max_new_tokens=9, ignore_eos=True)
        ignored = [reply async for reply in stub.Generate(ignoring)]

    assert "".join(reply.text for reply in stopped) == "".join(reply.text for reply in ignored) == "God"
    assert stopped[-1].finish_reason == pb.FINISH_REASON_STOP
    assert ignored[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert ignored[-1].usage.generated_tokens == 9


async def test_a_cancelled_call_frees_its_pages(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=1) as server, a_stub(server) as stub:
        runner.gate.clear()  # the first step does not end before the calls are cancelled
        calls = [stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=30)) for _ in range(3)]
        reading = [asyncio.create_task(call.read()) for call in calls]
        await server.until_inside(3)
        for call in calls:
            call.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        async with asyncio.timeout(120):
            while server.engine.load().waiting:  # those that wait leave at once, while the step still runs
                await asyncio.sleep(0.005)
        assert server.engine.load().running == 1
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        assert server.sample("headrace_requests_finished_total", outcome=Finish.CANCELLED) == 3


async def test_a_call_whose_deadline_passes_frees_its_pages(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        runner.gate.clear()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            [reply async for reply in stub.Generate(pb.GenerateRequest(text="In"), timeout=0.2)]
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES


REFUSED = [
    pytest.param(pb.GenerateRequest(), "prompt", "is missing", id="no prompt"),
    pytest.param(pb.GenerateRequest(text=""), "prompt", "is empty", id="empty text"),
    pytest.param(pb.GenerateRequest(tokens=pb.TokenIds()), "prompt", "is empty", id="no tokens"),
    pytest.param(pb.GenerateRequest(tokens=pb.TokenIds(ids=[4_000_000])), "prompt", "4000000", id="unknown token"),
    pytest.param(pb.GenerateRequest(tokens=pb.TokenIds(ids=[5] * CONTEXT)), "prompt", str(CONTEXT - 1), id="too long"),
    pytest.param(pb.GenerateRequest(text="In", max_new_tokens=0), "max_new_tokens", "at least 1", id="no new token"),
    pytest.param(pb.GenerateRequest(text="In", max_new_tokens=-5), "max_new_tokens", "at least 1", id="negative"),
    pytest.param(pb.GenerateRequest(text="In", max_new_tokens=CONTEXT), "max_new_tokens", str(CONTEXT), id="too many"),
    pytest.param(pb.GenerateRequest(text="In", temperature=float("nan")), "temperature", "from 0", id="NaN"),
    pytest.param(pb.GenerateRequest(text="In", temperature=-1), "temperature", "from 0", id="colder than greedy"),
    pytest.param(pb.GenerateRequest(text="In", temperature=2.5), "temperature", "to 2", id="too hot"),
    pytest.param(pb.GenerateRequest(text="In", top_p=0), "top_p", "above 0", id="top_p of nothing"),
    pytest.param(pb.GenerateRequest(text="In", top_p=float("nan")), "top_p", "at most 1", id="top_p NaN"),
    pytest.param(pb.GenerateRequest(text="In", top_k=-1), "top_k", "0 (all tokens)", id="negative top_k"),
    pytest.param(pb.GenerateRequest(text="In", stop=["a"] * 17), "stop", "at most 16", id="too many stop strings"),
    pytest.param(pb.GenerateRequest(text="In", stop=["a" * 257]), "stop", "1 to 256", id="too long a stop string"),
    pytest.param(pb.GenerateRequest(text="In", stop=[""]), "stop", "1 to 256", id="empty stop string"),
    pytest.param(pb.GenerateRequest(text="In", min_p=1.5), "min_p", "from 0 to 1", id="min_p"),
    pytest.param(pb.GenerateRequest(text="In", repetition_penalty=0), "repetition_penalty", "0.01", id="repetition"),
    pytest.param(pb.GenerateRequest(text="In", presence_penalty=3), "presence_penalty", "-2 to 2", id="presence"),
    pytest.param(pb.GenerateRequest(text="In", frequency_penalty=3), "frequency_penalty", "-2 to 2", id="frequency"),
    pytest.param(
        pb.GenerateRequest(text="In", logit_bias={5: float("nan")}), "logit_bias", "of token 5 is nan", id="bias NaN"
    ),
    pytest.param(pb.GenerateRequest(text="In", logit_bias={9999: 1}), "logit_bias", "9999", id="bias of no token"),
    pytest.param(pb.GenerateRequest(text="In", stop_token_ids=[9999]), "stop_token_ids", "9999", id="stop token"),
    pytest.param(pb.GenerateRequest(text="In", min_tokens=17), "min_tokens", "limit of 16", id="min_tokens"),
    pytest.param(pb.GenerateRequest(text="In", logprobs=21), "logprobs", "from 0 to 20", id="logprobs"),
    pytest.param(pb.GenerateRequest(text="In", prompt_logprobs=-1), "prompt_logprobs", "from 0", id="prompt_logprobs"),
]


@pytest.mark.parametrize(("request_", "field", "limit"), REFUSED)
async def test_what_can_never_be_served_is_refused_with_field_and_limit(
    model: Path, runner: ScriptedRunner, request_: pb.GenerateRequest, field: str, limit: str
) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        error = await _error(stub.Generate(request_))
        refused = server.sample("headrace_requests_refused_total", reason="invalid")
        received = server.sample("headrace_requests_received_total")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith(f"{field}: ")
    assert limit in (error.details() or "")
    assert ("headrace-field", field) in tuple(error.trailing_metadata())
    assert (refused, received) == (1, 0)


async def test_a_full_queue_says_when_to_come_back(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=1, max_waiting=1) as server, a_stub(server) as stub:
        runner.gate.clear()
        running = stub.Generate(pb.GenerateRequest(text="In"))
        await server.until_running(1)
        waiting = stub.Generate(pb.GenerateRequest(text="In"))
        await server.until_inside(2)
        error = await _error(stub.Generate(pb.GenerateRequest(text="In")))
        running.cancel()
        waiting.cancel()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert int(pushback) >= 1000


async def test_a_message_beyond_the_size_limit_is_refused(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        error = await _error(stub.Generate(pb.GenerateRequest(text="a" * (4 * 2**20 + 1))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in (error.details() or "")


async def test_a_forward_pass_that_breaks_reaches_every_stream(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        runner.gate.clear()
        calls = [asyncio.create_task(_error(stub.Generate(pb.GenerateRequest(text="In")))) for _ in range(2)]
        await server.until_inside(2)
        runner.broken = RuntimeError("device lost")
        runner.gate.set()
        errors = await asyncio.gather(*calls)
    assert {error.code() for error in errors} == {grpc.StatusCode.INTERNAL}
    assert all("device lost" in (error.details() or "") for error in errors)


async def test_while_loading_calls_are_unavailable_and_health_says_not_serving(
    model: Path, runner: ScriptedRunner
) -> None:
    async with open_server(model, runner, ready=False) as server, a_stub(server) as stub:
        error = await _error(stub.Generate(pb.GenerateRequest(text="In")))
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await stub.ModelInfo(pb.ModelInfoRequest())
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))
    assert error.code() is info.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "loading" in (error.details() or "")
    assert reply.status == NOT_SERVING


async def test_model_info_tells_the_limits(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        info = await stub.ModelInfo(pb.ModelInfoRequest())
    assert (info.name, info.max_context, info.device, info.dtype) == ("tiny", CONTEXT, "cpu", "float32")
    assert info.vocab_size == tiny_tokenizer().get_vocab_size()
    assert list(info.eos_token_ids) == [1]


@pytest.mark.parametrize("service", ["", "headrace.v1.Inference"])
async def test_who_watches_health_hears_of_the_drain(model: Path, runner: ScriptedRunner, service: str) -> None:
    async with open_server(model, runner) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        before = await watch.read()
        await server.doors.turn_away(Phase.DRAINING)
        after = await watch.read()
        watch.cancel()
    assert (before.status, after.status) == (SERVING, NOT_SERVING)


async def test_reflection_lists_the_services(model: Path, runner: ScriptedRunner) -> None:
    async def one_request():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with open_server(model, runner) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(one_request())
        listed = {service.name async for reply in call for service in reply.list_services_response.service}
    assert {"headrace.v1.Inference", "grpc.health.v1.Health"} <= listed


async def _error(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        [reply async for reply in call]
    return failed.value
