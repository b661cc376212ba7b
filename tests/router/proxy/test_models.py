"""Two models behind one address: a real Envoy, the rules of a file, and the other model where the first is unsure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml
from headrace_server.rpc.http import ANY_MODEL
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from replicas import Replica, running
from routed import Routed, routed

COST = 'headrace_router_model_cost_total{{model="{}"}}'


@dataclass(slots=True)
class Group:
    small: Replica
    large: Replica
    router: Routed
    session: aiohttp.ClientSession

    async def complete(self, prompt: str = "x", stream: bool = False, **fields: Any) -> tuple[dict[str, str], Any]:
        """Headers, and the answer: JSON, or text of a stream."""
        headers = fields.pop("headers", {})
        body = {"prompt": prompt, "stream": stream, **fields}
        url = f"http://{self.router.http}/v1/completions"
        async with self.session.post(url, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return dict(response.headers), await (response.text() if stream else response.json())

    async def generate(self, prompt: str, **metadata: str) -> set[str]:
        async with grpc.aio.insecure_channel(self.router.grpc) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            named = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
            call = stub.Generate(pb.GenerateRequest(text=prompt), metadata=named, timeout=300)
            return {reply.text async for reply in call}


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    async with AsyncExitStack() as stack:
        small, large = Replica("small"), Replica("large")
        for each in (small, large):
            await stack.enter_async_context(running(each))
        file = tmp_path / "models.yaml"
        body = {
            "models": {
                "small": {"replicas": [small.address], "costPerHour": 1.5},
                "large": {"replicas": [large.address], "costPerHour": 6},
            },
            "rules": [
                {"name": "premium", "header": {"x-tier": "premium"}, "model": "large"},
                {"name": "long", "requestBytes": 10_000, "model": "large"},
            ],
            "default": "small",
            "fallback": {"from": "small", "to": "large", "meanLogprob": -1.0},
        }
        file.write_text(yaml.safe_dump(body))
        router = await stack.enter_async_context(routed(tmp_path / "log", f"--models={file}"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Group(small, large, router, session)


async def test_rules_name_the_model_over_both_doors(group: Group) -> None:
    assert await group.generate("x") == {"small"}
    assert await group.generate("x", x_tier="premium") == {"large"}
    assert await group.generate("x" * 20_000) == {"large"}
    assert "data: small" in (await group.complete(stream=True))[1]
    assert "data: large" in (await group.complete(stream=True, headers={"X-Tier": "premium"}))[1]
    assert "data: large" in (await group.complete("x" * 20_000, stream=True))[1]  # more than the picker sees
    metrics = await group.router.metrics()
    assert metrics['headrace_router_model_requests_total{model="small",rule="default"}'] == 2
    assert metrics['headrace_router_model_requests_total{model="large",rule="premium"}'] == 2
    assert metrics['headrace_router_model_requests_total{model="large",rule="long"}'] == 2


async def test_an_answer_that_is_sure_is_the_answer(group: Group) -> None:
    headers, answer = await group.complete()
    assert answer["choices"] == [{"text": "small", "logprobs": None}]  # they were asked for, but not by the client
    assert headers["x-headrace-model"] == "small"
    assert not group.large.asked


async def test_logprobs_that_the_client_asked_for_stay(group: Group) -> None:
    assert (await group.complete(logprobs=1))[1]["choices"][0]["logprobs"] == {"token_logprobs": [-0.1, -0.1]}


async def test_an_unsure_answer_is_asked_of_the_other_model(group: Group) -> None:
    group.small.logprob = -2.0
    headers, answer = await group.complete("hard")
    assert answer["choices"] == [{"text": "large", "logprobs": None}]
    assert headers["x-headrace-model"] == "large"
    assert group.small.asked == group.large.asked == ["hard"]
    metrics = await group.router.metrics()
    assert metrics['headrace_router_fallbacks_total{outcome="Unsure"}'] == 1
    assert metrics['headrace_router_model_requests_total{model="large",rule="fallback"}'] == 1
    await group.router.until("headrace_router_requests_in_flight", 0)


async def test_an_unsure_answer_is_more_than_none(group: Group) -> None:
    group.small.logprob, group.large.fails_with = -2.0, grpc.StatusCode.UNAVAILABLE
    assert (await group.complete())[1]["choices"][0]["text"] == "small"
    assert (await group.router.metrics())['headrace_router_fallbacks_total{outcome="Kept"}'] == 1


async def test_replicas_hear_that_the_clients_word_for_the_model_does_not_count(group: Group) -> None:
    await group.complete()  # through Python, for it may be asked again
    await group.complete(stream=True)
    assert [headers.get(ANY_MODEL) for headers in group.small.metadata] == ["true", "true"]


async def test_a_stream_is_never_asked_twice(group: Group) -> None:
    group.small.logprob = -2.0
    assert "data: small" in (await group.complete(stream=True))[1]
    assert not group.large.asked


async def test_what_it_cost_is_shown(group: Group) -> None:
    for turn in range(4):
        await group.complete(str(turn), headers={"X-Tier": "premium"} if turn == 0 else {})
    await group.router.until('headrace_router_model_requests_total{model="small",rule="default"}', 3)
    async with group.session.get(f"http://{group.router.admin}/models") as response:
        table = [line.split() for line in (await response.text()).splitlines()]
    small, large = (next(row for row in table if row and row[0] == name) for name in ("small", "large"))
    assert (small[1:3], large[1:3]) == (["3", "75.0%"], ["1", "25.0%"])
    async with asyncio.timeout(300):
        while not (metrics := await group.router.metrics()).get(COST.format("large")):
            await asyncio.sleep(0.1)
    for name, price in (("small", 1.5), ("large", 6)):
        hours = metrics[f'headrace_router_model_replica_seconds_total{{model="{name}"}}'] / 3600
        assert metrics[COST.format(name)] == pytest.approx(hours * price)


async def test_no_model_stands_in_for_one_whose_replicas_cannot_be_reached(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        small, large = Replica("small"), Replica("large", grpc_port=1, http_port=1)  # nobody listens there
        await stack.enter_async_context(running(small))
        models = {"small": {"replicas": [small.address]}, "large": {"replicas": [large.address]}}
        rules = [{"name": "premium", "header": {"x-tier": "premium"}, "model": "large"}]
        file = tmp_path / "models.yaml"
        file.write_text(yaml.safe_dump({"models": models, "rules": rules, "default": "small"}))
        router = await stack.enter_async_context(routed(tmp_path / "log", f"--models={file}"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        group = Group(small, large, router, session)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await group.generate("x", x_tier="premium")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        url, body = f"http://{router.http}/v1/completions", {"prompt": "x", "stream": True}
        async with session.post(url, json=body, headers={"x-tier": "premium"}) as response:
            assert response.status == 503
        assert small.asked == []
        assert await group.generate("x") == {"small"}
