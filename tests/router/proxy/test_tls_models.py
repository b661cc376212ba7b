"""Several models whose replicas speak TLS: each has an authority and a name of its own, and one speaks plain text."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml
from certificates import Authority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from listening import PATIENCE
from replicas import Replica, running
from routed import Routed, routed

SMALL, LARGE = "small.default.svc", "large.team-b.svc"
RULES = [{"name": name, "header": {"x-model": name}, "model": name} for name in ("large", "plain", "wrong")]


@dataclass(slots=True)
class Group:
    router: Routed
    session: aiohttp.ClientSession
    small_file: Path  # of who signs for the small model's replicas
    wrong: Replica

    async def stream(self, model: str, **headers: str) -> tuple[int, str]:
        return await self._ask({"prompt": "x", "stream": True}, {"x-model": model, **headers})

    async def whole(self, model: str) -> tuple[int, str]:
        return await self._ask({"prompt": "x", "stream": False}, {"x-model": model})

    async def generate(self, model: str) -> str:
        async with grpc.aio.insecure_channel(self.router.grpc) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            call = stub.Generate(pb.GenerateRequest(text="x"), metadata=(("x-model", model),), timeout=PATIENCE)
            return "".join([reply.text async for reply in call])

    async def _ask(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
        url = f"http://{self.router.http}/v1/completions"
        async with self.session.post(url, json=body, headers=headers) as response:
            return response.status, await response.text()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    inside, other = Authority(tmp_path, "inside"), Authority(tmp_path, "other")
    small, large, plain, wrong = (Replica(name, tokens=1) for name in ("small", "large", "plain", "wrong"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(small, inside.sign("small", SMALL)))
        await stack.enter_async_context(running(large, other.sign("large", LARGE)))
        await stack.enter_async_context(running(plain))
        await stack.enter_async_context(running(wrong, other.sign("wrong", LARGE)))  # not the name that is asked for
        small_file = tmp_path / "small-ca.crt"
        small_file.write_bytes(inside.certificate.read_bytes())
        models = {
            "small": {"replicas": [small.address], "replicaCa": str(small_file), "replicaName": SMALL},
            "large": {"replicas": [large.address], "replicaCa": str(other.certificate), "replicaName": LARGE},
            "plain": {"replicas": [plain.address]},
            "wrong": {"replicas": [wrong.address], "replicaCa": str(other.certificate), "replicaName": SMALL},
        }
        fallback = {"from": "small", "to": "large", "meanLogprob": -0.05}  # every whole answer is unsure
        file = tmp_path / "models.yaml"
        file.write_text(yaml.safe_dump({"models": models, "rules": RULES, "default": "small", "fallback": fallback}))
        router = await stack.enter_async_context(routed(tmp_path / "log", f"--models={file}"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Group(router, session, small_file, wrong)


@pytest.mark.parametrize("model", ["small", "large", "plain"])
async def test_each_model_is_spoken_to_as_its_replicas_speak(group: Group, model: str) -> None:
    assert await group.generate(model) == model
    assert await group.stream(model) == (200, f"data: {model}\n\n")
    comments = {"x-headrace-progress": "comments"}  # through Python
    assert await group.stream(model, **comments) == (200, f"data: {model}\n\n")


async def test_the_model_that_is_asked_instead_is_trusted_by_its_own_authority(group: Group) -> None:
    status, answer = await group.whole("small")
    assert (status, '"large"' in answer) == (200, True)
    assert (await group.router.metrics())['headrace_router_fallbacks_total{outcome="Unsure"}'] == 1


async def test_a_replica_that_shows_another_models_name_gets_nothing(group: Group) -> None:
    assert (await group.stream("wrong"))[0] == 503
    assert (await group.stream("wrong", **{"x-headrace-progress": "comments"}))[0] == 503
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await group.generate("wrong")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not group.wrong.metadata


async def test_a_new_authority_counts_for_its_model_alone(group: Group, tmp_path: Path) -> None:
    group.small_file.write_bytes(Authority(tmp_path, "new").certificate.read_bytes())
    comments = {"x-headrace-progress": "comments"}

    async def is_refused() -> bool:
        """Once the file was read again."""
        return (await group.stream("small", **comments))[0] == 503

    await until(is_refused)
    assert await group.generate("large") == "large"
    assert await group.stream("large", **comments) == (200, "data: large\n\n")


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.1)
