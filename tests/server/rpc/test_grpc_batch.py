"""GenerateBatch: several prompts in one call, and one that is refused loses none of the others."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_errors import fields_in, reason_in, retry_seconds_in, status_in
from headrace_server.request import Finish
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import PAGES, a_stub, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "
ANSWER_TOKENS = len(tiny_tokenizer().encode(ANSWER).ids)


def batch(*requests: pb.GenerateRequest) -> pb.GenerateBatchRequest:
    return pb.GenerateBatchRequest(requests=requests)


async def test_each_prompt_is_answered_whole_in_its_place(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        lengths = [ANSWER_TOKENS, 2, 7]
        asked = [pb.GenerateRequest(text="In", max_new_tokens=length, logprobs=None) for length in lengths]
        reply = await stub.GenerateBatch(batch(*asked), timeout=120)
        alone = [[one async for one in stub.Generate(each)] for each in asked]
    outcomes = [outcome.reply for outcome in reply.outcomes]
    assert [outcome.usage.generated_tokens for outcome in outcomes] == lengths
    for together, parts in zip(outcomes, alone, strict=True):
        assert together.text == "".join(part.text for part in parts)
        assert list(together.token_ids) == [token for part in parts for token in part.token_ids]
        assert together.finish_reason == parts[-1].finish_reason == pb.FINISH_REASON_LENGTH


async def test_what_is_refused_has_its_status_and_loses_none_of_the_others(model: Path, runner: ScriptedRunner) -> None:
    asked = [
        pb.GenerateRequest(text="In", max_new_tokens=3),
        pb.GenerateRequest(text="In", top_k=-1),
        pb.GenerateRequest(),
        pb.GenerateRequest(text="In", regex="("),
        pb.GenerateRequest(text="the", max_new_tokens=4),
    ]
    async with open_server(model, runner) as server, a_stub(server) as stub:
        reply = await stub.GenerateBatch(batch(*asked), timeout=120)
        refused = server.sample("headrace_requests_refused_total", reason="invalid")
    first, *faulty, last = reply.outcomes
    assert (first.reply.usage.generated_tokens, last.reply.usage.generated_tokens) == (3, 4)
    assert [fields_in(each.refused) for each in faulty] == [["top_k"], ["prompt"], ["regex"]]
    assert {reason_in(each.refused) for each in faulty} == {"INVALID"}
    assert {each.refused.code for each in faulty} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert refused == 3


async def test_prompts_beyond_the_queue_are_told_when_to_come_back(model: Path, runner: ScriptedRunner) -> None:
    asked = [pb.GenerateRequest(text="In", max_new_tokens=2) for _ in range(6)]
    async with open_server(model, runner, max_running=1, max_waiting=2) as server, a_stub(server) as stub:
        reply = await stub.GenerateBatch(batch(*asked), timeout=120)
    kinds = [outcome.WhichOneof("outcome") for outcome in reply.outcomes]
    assert kinds.count("reply") >= 2
    refused = [outcome.refused for outcome in reply.outcomes if outcome.HasField("refused")]
    assert refused
    assert {reason_in(each) for each in refused} == {"OVERLOADED"}
    assert all((retry_seconds_in(each) or 0) > 0 for each in refused)


@pytest.mark.parametrize("count", [0, 257])
async def test_too_few_or_too_many_prompts_are_refused_together(
    model: Path, runner: ScriptedRunner, count: int
) -> None:
    asked = [pb.GenerateRequest(text="In")] * count
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="send 1 to 256") as failed:
            await stub.GenerateBatch(batch(*asked))
    assert fields_in(status_in(failed.value)) == ["requests"]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_batch_that_is_given_up_frees_all_it_held(model: Path, runner: ScriptedRunner, how: str) -> None:
    asked = [pb.GenerateRequest(text="In", max_new_tokens=30) for _ in range(5)]
    async with open_server(model, runner, max_running=2) as server, a_stub(server) as stub:
        runner.gate.clear()
        call = stub.GenerateBatch(batch(*asked), timeout=3 if how == "deadline" else 120)
        await server.until_inside(5)
        if how == "cancel":
            call.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        async with asyncio.timeout(120):
            while server.doors.arrivals.inside:
                await asyncio.sleep(0.005)
        ended = {each: server.sample("headrace_requests_finished_total", outcome=each) for each in Finish}
        assert ended[Finish.CANCELLED] + ended[Finish.EXPIRED] == 5


async def test_usage_says_where_the_time_went_and_what_it_cost(model: Path, runner: ScriptedRunner) -> None:
    prompt = pb.TokenIds(ids=list(range(5, 45)))
    async with open_server(model, runner) as server, a_stub(server) as stub:
        found = []
        for _ in range(2):
            request = pb.GenerateRequest(tokens=prompt, max_new_tokens=8)
            reply = await stub.GenerateBatch(batch(request), timeout=120)
            found.append(reply.outcomes[0].reply.usage)
    cold, warm = found
    for usage in found:
        assert usage.queue_wait_seconds + usage.prefill_seconds == pytest.approx(usage.ttft_seconds)
        assert usage.decode_seconds > 0
        assert usage.computed_tokens == 40 - usage.cached_prompt_tokens + 8
    assert cold.cached_prompt_tokens == 0
    assert warm.cached_prompt_tokens == 32  # two whole pages of 16
