"""Adapters at the doors: their names are models' names over HTTP and a field over gRPC; who asks for which is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from headrace_server.config import AdapterDirectory, CacheConfig, LoraConfig
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, OpenServer, a_stub, open_server
from scripted_runner import ScriptedRunner

POET, CLERK = AdapterDirectory("poet", Path("poet")), AdapterDirectory("team/clerk", Path("clerk"))
BODY: dict[str, Any] = {"prompt": "In the beginning", "max_tokens": 4, "temperature": 0}


@pytest_asyncio.fixture
async def server(model: Path, runner: ScriptedRunner) -> AsyncIterator[OpenServer]:
    differs = {"lora": LoraConfig((POET, CLERK)), "caches": CacheConfig(response_bytes=2**20)}
    async with open_server(model, runner, differs=differs) as opened:
        yield opened


async def asked(server: OpenServer, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession(server.http) as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, path, json=body) as answer:
            return answer.status, await answer.json()


async def test_an_adapter_is_listed_as_a_model_with_its_parent(server: OpenServer) -> None:
    _, listed = await asked(server, "/v1/models")
    assert [(card["id"], card.get("parent")) for card in listed["data"]] == [
        (NAME, None), ("poet", NAME), ("team/clerk", NAME)
    ]  # fmt: skip
    for card in listed["data"]:
        assert await asked(server, f"/v1/models/{card['id']}") == (200, card)


@pytest.mark.parametrize(("name", "adapters"), [(NAME, set()), ("poet", {"poet"}), ("team/clerk", {"team/clerk"})])
async def test_the_models_name_chooses_the_adapter(server: OpenServer, name: str, adapters: set[str]) -> None:
    status, answer = await asked(server, "/v1/completions", BODY | {"model": name})
    assert (status, answer["model"]) == (200, name)
    assert server.runner.adapters == adapters
    chat = {"model": name, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    assert (await asked(server, "/v1/chat/completions", chat))[1]["model"] == name


async def test_an_unknown_one_is_refused_with_those_that_are_known(server: OpenServer) -> None:
    status, refusal = await asked(server, "/v1/completions", BODY | {"model": "painter"})
    assert status == 404
    assert refusal["error"]["param"] == "model"
    assert "this server serves 'tiny', 'poet', 'team/clerk'" in refusal["error"]["message"]
    async with a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            [_ async for _ in stub.Generate(pb.GenerateRequest(text="In", adapter="painter"))]
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "adapters of this server: poet, team/clerk" in (refused.value.details() or "")


async def test_a_grpc_field_chooses_it_too(server: OpenServer) -> None:
    async with a_stub(server) as stub:
        info = await stub.ModelInfo(pb.ModelInfoRequest())
        request = pb.GenerateRequest(text="In the beginning", max_new_tokens=3, adapter=info.adapters[0])
        assert [reply async for reply in stub.Generate(request)]
    assert list(info.adapters) == ["poet", "team/clerk"]
    assert server.runner.adapters == {"poet"}


async def test_a_kept_answer_is_one_adapters(server: OpenServer) -> None:
    for name in (NAME, "poet", "poet", NAME):
        await asked(server, "/v1/completions", BODY | {"model": name})
    assert server.sample("headrace_requests_received_total") == 2


async def test_who_is_at_work_for_whom_is_told(server: OpenServer) -> None:
    labels = {"model_name": NAME, "engine": "0", "max_lora": "2"}
    idle = {"running_lora_adapters": "", "waiting_lora_adapters": ""}
    assert server.sample("vllm:lora_requests_info", **labels, **idle) == 1
    server.runner.gate.clear()
    answer = asyncio.create_task(asked(server, "/v1/completions", BODY | {"model": "poet"}))
    await server.until_running(1)
    assert server.sample("headrace_adapter_requests", adapter="poet", state="running") == 1
    busy = {"running_lora_adapters": "poet", "waiting_lora_adapters": ""}
    assert server.sample("vllm:lora_requests_info", **labels, **busy) == 1
    server.runner.gate.set()
    await answer
    await server.until_inside(0)
    assert server.sample("headrace_adapter_requests", adapter="poet", state="running") == 0
    assert server.sample("vllm:lora_requests_info", **labels, **idle) == 1
