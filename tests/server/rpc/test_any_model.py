"""Behind a router that chooses among several models, what a client calls the model is not looked at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from headrace_server.rpc.http import ANY_MODEL
from open_server import NAME, open_server
from scripted_runner import ScriptedRunner

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "In", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "In"}], "max_tokens": 1},
    "/tokenize": {"prompt": "In"},
}


@asynccontextmanager
async def asking(model: Path, runner: ScriptedRunner, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_server(model, runner) as server, aiohttp.ClientSession(server.http, headers=headers) as session:
        yield session


async def test_a_routers_word_counts_instead_and_the_answer_says_who_gave_it(
    model: Path, runner: ScriptedRunner
) -> None:
    async with asking(model, runner, {ANY_MODEL: "true"}) as session:
        for path, body in BODIES.items():
            async with session.post(path, json={"model": "chat", **body}) as response:
                assert response.status == 200, await response.text()
                assert (await response.json()).get("model", NAME) == NAME


@pytest.mark.parametrize("path", BODIES)
async def test_without_it_another_model_is_not_there(model: Path, runner: ScriptedRunner, path: str) -> None:
    async with (
        asking(model, runner, {}) as session,
        session.post(path, json={"model": "chat", **BODIES[path]}) as response,
    ):
        assert response.status == 404
        assert "'chat' is not served here" in await response.text()
