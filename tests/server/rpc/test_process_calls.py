"""What may be asked of a whole process, over HTTP, and how it is refused."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from headrace_server.config import TelemetryConfig
from open_server import OpenServer, open_server
from scripted_runner import ScriptedRunner

TOKEN = "0b6f7c1e-pod"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def asked(
    server: OpenServer, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        answer = await session.request(method, f"{server.http}{path}", headers=BEARER if headers is None else headers)
        return answer.status, json.loads(await answer.read())


async def test_a_profile_without_a_directory_is_refused_with_the_remedy(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, differs={"drain_token": TOKEN}) as server:
        status, body = await asked(server, "POST", "/debug/profile?steps=3")
    assert status == 409
    assert "--profile-dir" in body["error"]["message"]


async def test_only_who_holds_the_pods_token_may_profile(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    told = TelemetryConfig(profile_dir=tmp_path)
    async with open_server(model, runner, differs={"drain_token": TOKEN, "telemetry": told}) as server:
        assert (await asked(server, "POST", "/debug/profile", headers={}))[0] == 401
        assert (await asked(server, "POST", "/debug/profile"))[0] == 409  # this runner has nothing to record


@pytest.mark.parametrize("query", ["steps=0", "steps=1001", "steps=many", "steps=nan", "timeout=0", "timeout=9999"])
async def test_a_profile_of_no_sense_is_refused(
    model: Path, runner: ScriptedRunner, tmp_path: Path, query: str
) -> None:
    told = TelemetryConfig(profile_dir=tmp_path)
    async with open_server(model, runner, differs={"drain_token": TOKEN, "telemetry": told}) as server:
        status, body = await asked(server, "POST", f"/debug/profile?{query}")
    assert (status, body["error"]["param"]) == (400, query.partition("=")[0])
