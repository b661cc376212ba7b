"""What may be asked of a whole process, over HTTP, and how it is refused."""

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headrace_server.config import TelemetryConfig
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.pb.orca_pb2 import OrcaLoadReport
from headrace_server.rpc.readiness import Phase
from open_server import NAME, PATIENCE, OpenServer, open_server
from scripted_runner import ScriptedRunner, always

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


class Sleepy(ScriptedRunner):
    """Has something to give back."""

    awake = True

    def sleep(self) -> None:
        self.awake = False

    def wake_up(self) -> None:
        self.awake = True


@pytest.fixture
def sleepy() -> Sleepy:
    return Sleepy(always([7]))


async def completed(server: OpenServer, **headers: str) -> tuple[int, Mapping[str, str]]:
    body = {"model": NAME, "prompt": "In the", "max_tokens": 3}
    url = f"{server.http}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        await answer.read()
        return answer.status, dict(answer.headers)


async def serving(server: OpenServer) -> bool:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_sleeping_server_refuses_and_says_so_until_it_wakes(model: Path, sleepy: Sleepy) -> None:
    async with open_server(model, sleepy, differs={"drain_token": TOKEN}) as server:
        assert await asked(server, "GET", "/is_sleeping") == (200, {"is_sleeping": False})
        assert (await asked(server, "POST", "/sleep", headers={}))[0] == 401
        assert await asked(server, "POST", "/sleep?level=1") == (200, {"is_sleeping": True})
        assert await asked(server, "GET", "/is_sleeping") == (200, {"is_sleeping": True})
        assert not sleepy.awake
        assert (await completed(server))[0] == 503
        assert (await asked(server, "GET", "/ready"))[0] == 503
        assert (await asked(server, "GET", "/health"))[0] == 200  # nothing that a restart would mend
        assert not await serving(server)
        assert (server.sample("headrace_sleeping"), server.sample("headrace_ready")) == (1, 0)
        state = {"model_name": NAME, "engine": "0", "sleep_state": "awake"}
        assert server.sample("vllm:engine_sleep_state", **state) == 0

        assert await asked(server, "POST", "/wake_up") == (200, {"is_sleeping": False})
        assert sleepy.awake
        assert (await completed(server))[0] == 200
        assert (await asked(server, "GET", "/ready"))[0] == 200
        assert await serving(server)
        assert (server.sample("headrace_sleeping"), server.sample("headrace_ready")) == (0, 1)
        assert server.sample("vllm:engine_sleep_state", **state) == 1


async def test_what_cannot_sleep_says_so_and_serves_on(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, differs={"drain_token": TOKEN}) as server:
        status, body = await asked(server, "POST", "/sleep")
        assert (status, "no KV cache" in body["error"]["message"]) == (409, True)
        status, body = await asked(server, "POST", "/sleep?level=2")
        assert (status, body["error"]["param"]) == (400, "level")
        assert (await completed(server))[0] == 200
        assert await serving(server)


async def test_a_replica_that_drains_does_not_go_to_sleep(model: Path, sleepy: Sleepy) -> None:
    async with open_server(model, sleepy, differs={"drain_token": TOKEN}) as server:
        server.doors.readiness.enter(Phase.DRAINING)
        assert (await asked(server, "POST", "/sleep"))[0] == 409
        assert (await asked(server, "POST", "/wake_up"))[0] == 200
        assert server.doors.readiness.phase is Phase.DRAINING


async def test_load_is_vllms_and_more(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=2) as server:
        runner.gate.clear()
        asking = [asyncio.create_task(completed(server)) for _ in range(3)]
        await server.until_inside(3)
        async with asyncio.timeout(PATIENCE):
            while not server.engine.load().running:  # only a step gives a request its pages
                await asyncio.sleep(0.005)
        status, load = await asked(server, "GET", "/load")
        runner.gate.set()
        await asyncio.gather(*asking)
        _, idle = await asked(server, "GET", "/load")
    assert (status, load["server_load"], load["max_running"], load["phase"]) == (200, 3, 2, "ready")
    assert load["requests_running"] + load["requests_waiting"] == 3
    assert load["utilization"] == 1.5
    assert load["kv_cache_usage"] > 0
    assert load["oldest_waiting_seconds"] > 0
    assert (idle["server_load"], idle["utilization"]) == (0, 0)


async def test_an_answer_carries_the_load_in_the_form_that_was_asked_for(model: Path, runner: ScriptedRunner) -> None:
    wanted = "endpoint-load-metrics-format"
    async with open_server(model, runner) as server:
        _, plain = await completed(server)
        _, as_json = await completed(server, **{wanted: "JSON"})
        _, as_text = await completed(server, **{wanted: "text"})
        _, as_bytes = await completed(server, **{wanted: "BIN"})
        status, unknown = await completed(server, **{wanted: "XML"})
    names = {"kv_cache_usage_perc", "num_requests_waiting", "num_requests_running"}
    assert not any(name.startswith("endpoint-load") for name in (*plain, *unknown))
    assert status == 200
    kind, _, document = as_json["endpoint-load-metrics"].partition(" ")
    assert (kind, set(json.loads(document)["named_metrics"])) == ("JSON", names)
    kind, _, pairs = as_text["endpoint-load-metrics"].partition(" ")
    assert kind == "TEXT"
    told = dict(pair.split("=") for pair in pairs.split(","))
    assert set(told) == {"application_utilization", *(f"named_metrics.{name}" for name in names)}
    report = OrcaLoadReport.FromString(base64.b64decode(as_bytes["endpoint-load-metrics-bin"]))
    assert set(report.named_metrics) == names


async def recorded(address: str, stack: AsyncExitStack) -> tuple[str, bytearray]:
    """A way to that server that keeps what it sends: gRPC's own client reads this trailer and shows it to nobody."""
    sent = bytearray()
    host, _, port = address.partition(":")

    async def connected(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection(host, int(port))

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bytearray | None) -> None:
            while data := await source.read(65536):
                if keep is not None:
                    keep += data
                sink.write(data)
            sink.close()

        await asyncio.gather(pass_on(near_in, far_out, None), pass_on(far_in, near_out, sent))

    proxy = await stack.enter_async_context(await asyncio.start_server(connected, host))
    return f"{host}:{proxy.sockets[0].getsockname()[1]}", sent


async def test_a_grpc_call_ends_with_the_load_of_its_server(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=4) as server, AsyncExitStack() as stack:
        address, sent = await recorded(server.grpc, stack)
        async with grpc.aio.insecure_channel(address) as channel:
            call = inference_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest(text="In", max_new_tokens=2))
            assert [token async for reply in call for token in reply.token_ids]
    _, name, rest = bytes(sent).partition(b"endpoint-load-metrics-bin")
    assert name, "no trailer"
    length = rest[0]  # HPACK: a literal of less than 127 bytes; gRPC's peers send bytes as they are, after a zero
    assert rest[1] == 0
    report = OrcaLoadReport.FromString(rest[2 : 1 + length])
    assert set(report.named_metrics) == {"kv_cache_usage_perc", "num_requests_waiting", "num_requests_running"}
    assert 0 <= report.application_utilization <= 1


async def test_a_scrape_may_ask_for_some_series_only(model: Path, runner: ScriptedRunner) -> None:
    names = {"headrace_max_running", "headrace_queue_wait_seconds_bucket"}
    url = "/metrics?" + "&".join(f"name[]={name}" for name in names)
    async with open_server(model, runner) as server, aiohttp.ClientSession() as session:
        async with session.get(server.http + url) as answer:
            lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
        async with session.get(server.http + "/metrics") as answer:
            everything = await answer.text()
    assert {re.split("[ {]", line)[0] for line in lines} == names
    assert "vllm:num_requests_waiting" in everything
