"""Who passes the doors with an API key, as whom, and who does not."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from headrace_server.config import AccessConfig, BatchConfig
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.pb import inference_pb2, oip_pb2
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, PATIENCE, OpenServer, a_stub, open_server
from openai import AsyncOpenAI, AuthenticationError, PermissionDeniedError
from scripted_runner import ScriptedRunner

A, B, OLD = new_key(), new_key(), new_key()
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
COMPLETION = {"model": NAME, "prompt": "In the beginning " * 8, "max_tokens": 2, "temperature": 0}
SHARED_TOKENS = 16  # of a page, the least that the prefix cache finds


@dataclass(frozen=True, slots=True)
class Guarded:
    server: OpenServer
    file: Path

    async def post(self, headers: Mapping[str, str], path: str = "/v1/completions") -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.server.http + path, json=COMPLETION, headers=headers) as answer,
        ):
            return answer.status, await answer.json()

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        async with aiohttp.ClientSession() as session, session.get(self.server.http + path, headers=headers) as answer:
            return answer.status

    async def generate(self, *metadata: tuple[str, str]) -> grpc.StatusCode:
        async with a_stub(self.server) as stub:
            call = stub.Generate(pb.GenerateRequest(text="In the beginning", max_new_tokens=2), metadata=metadata)
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code()
            return await call.code()

    async def prefix_hits(self, key: str, **headers: str) -> float:
        """Tokens of one more completion that were found computed."""
        before = self.server.sample("headrace_prefix_cache_hits_total")
        status, _ = await self.post({"Authorization": f"Bearer {key}", **headers})
        assert status == 200
        return self.server.sample("headrace_prefix_cache_hits_total") - before


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def guarded(model: Path, runner: ScriptedRunner, directory: Path, **more: Any) -> AsyncIterator[Guarded]:
    file = directory / "keys"
    file.write_text("\n".join([line("team-a", A), line("team-b", B), line("team-a", OLD, NOON)]))
    differs = {"access": AccessConfig(api_keys=file), **more}
    async with open_server(model, runner, differs=differs, wall_clock=lambda: NOON.timestamp() + 1) as server:
        yield Guarded(server, file)


REFUSED = [
    pytest.param({}, id="no key"),
    pytest.param(bearer(new_key()), id="another key"),
    pytest.param(bearer(A[:-1]), id="a key that was cut off"),
    pytest.param(bearer(OLD), id="an expired key"),
    pytest.param({"Authorization": f"Basic {A}"}, id="another scheme"),
    pytest.param({"Authorization": A}, id="no scheme"),
    pytest.param({"x-headrace-tenant": "team-a"}, id="a name without a key"),
]


@pytest.mark.parametrize("headers", REFUSED)
async def test_nobody_passes_without_a_key_that_counts(
    model: Path, runner: ScriptedRunner, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with guarded(model, runner, tmp_path) as there:
        status, body = await there.post(headers)
        metadata = [(name.lower(), value) for name, value in headers.items()]
        assert await there.generate(*metadata) is grpc.StatusCode.UNAUTHENTICATED
        refused = there.server.sample("headrace_requests_refused_total", reason="unauthenticated")
        received = there.server.sample("headrace_requests_received_total")
    assert status == 401
    assert body["error"]["type"] == "authentication_error"
    assert body["error"]["code"] == "invalid_api_key"
    assert A not in str(body)
    assert (refused, received) == (2, 0)


async def test_a_key_opens_both_doors_in_any_spelling_of_bearer(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path) as there:
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert (await there.post({"Authorization": f"{scheme} {A}"}))[0] == 200
            assert await there.generate(("authorization", f"{scheme} {B}")) is grpc.StatusCode.OK


async def test_openais_client_gets_its_own_errors(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    async with guarded(model, runner, tmp_path) as there:

        async def ask(key: str, **headers: str) -> str | None:
            async with AsyncOpenAI(base_url=f"{there.server.http}/v1", api_key=key, max_retries=0) as client:
                answer = await client.completions.create(
                    model=NAME, prompt="In", max_tokens=2, temperature=0, extra_headers=headers
                )
                return answer.choices[0].text

        assert await ask(A)
        with pytest.raises(AuthenticationError, match="not known here"):
            await ask(new_key())
        with pytest.raises(PermissionDeniedError, match="team-b"):
            await ask(A, **{"x-headrace-tenant": "team-b"})


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        pytest.param("team-a", True, id="its own name"),
        pytest.param("team-a/bob", True, id="a part of it"),
        pytest.param("team-b", False, id="another tenant"),
        pytest.param("team-ab", False, id="a longer name"),
        pytest.param("team", False, id="a shorter name"),
        pytest.param("/team-a", False, id="a part of nobody"),
    ],
)
async def test_a_field_can_only_narrow(
    model: Path, runner: ScriptedRunner, tmp_path: Path, said: str, passes: bool
) -> None:
    async with guarded(model, runner, tmp_path) as there:
        status, body = await there.post({**bearer(A), "x-headrace-tenant": said})
        code = await there.generate(("authorization", f"Bearer {A}"), ("x-headrace-tenant", said))
    assert status == (200 if passes else 403)
    assert code is (grpc.StatusCode.OK if passes else grpc.StatusCode.PERMISSION_DENIED)
    if not passes:
        assert body["error"]["type"] == "permission_error"


async def test_a_gateway_that_has_a_key_is_believed_when_the_header_is_trusted(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path, trust_tenant_header=True) as there:
        said = {"x-headrace-tenant": "customer-7"}
        assert (await there.post(said))[0] == 401
        assert await there.prefix_hits(A, **said) == 0
        assert await there.prefix_hits(A, **said) >= SHARED_TOKENS
        assert await there.prefix_hits(A, **{"x-headrace-tenant": "customer-8"}) == 0


async def test_prompts_are_shared_within_a_tenant_or_its_part_and_never_beyond(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path) as there:
        assert await there.prefix_hits(A) == 0
        assert await there.prefix_hits(A) >= SHARED_TOKENS
        assert await there.prefix_hits(B) == 0
        bob = {"x-headrace-tenant": "team-a/bob"}
        assert await there.prefix_hits(A, **bob) == 0
        assert await there.prefix_hits(A, **bob) >= SHARED_TOKENS
        assert await there.prefix_hits(A, **{"x-headrace-tenant": "team-a/eve"}) == 0


async def test_what_is_not_an_api_of_tenants_needs_no_key_and_all_else_does(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path) as there:
        assert [await there.get(path) for path in ("/health", "/ready", "/metrics")] == [200, 200, 200]
        for path in ("/v1/models", f"/v1/models/{NAME}", "/v1/batches", "/unknown", "/health/x", "/"):
            assert await there.get(path) == 401, path
        assert await there.get("/v1/models", bearer(A)) == 200
        assert (await there.post(bearer(A), "/drain"))[0] == 401  # a tenant's key is not the pod's
        async with grpc.aio.insecure_channel(there.server.grpc) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            known = [reply async for reply in reflect(iter([asked]), metadata=[("authorization", f"Bearer {A}")])]
            assert known[0].list_services_response.service
            # Nothing is sent: what comes after the refusal would fail in the client, with INTERNAL.
            assert await reflect().code() is grpc.StatusCode.UNAUTHENTICATED


async def test_requests_of_one_connection_do_not_lend_each_other_their_names(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with guarded(model, runner, tmp_path) as there, aiohttp.ClientSession(connector=connector) as session:

        async def ask(headers: dict[str, str]) -> int:
            async with session.post(f"{there.server.http}/v1/completions", json=COMPLETION, headers=headers) as answer:
                await answer.read()
                return answer.status

        said = {"x-headrace-tenant": "team-a"}
        assert [await ask(bearer(A) | said), await ask(bearer(B) | said), await ask(said)] == [200, 403, 401]


async def test_keys_come_and_go_while_the_server_runs(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    fresh = new_key()
    async with guarded(model, runner, tmp_path) as there, asyncio.timeout(PATIENCE):
        there.file.write_text("broken")
        while there.server.sample("headrace_reload_ok", file="api_keys"):
            await asyncio.sleep(0.05)
        assert (await there.post(bearer(A)))[0] == 200  # what was read before still holds
        there.file.write_text(line("team-c", fresh))
        while (await there.post(bearer(fresh)))[0] != 200:
            await asyncio.sleep(0.05)
        assert (await there.post(bearer(A)))[0] == 401
        assert there.server.sample("headrace_reload_ok", file="api_keys") == 1


async def test_an_admin_port_takes_what_acts_off_the_clients_port(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path, admin_port=0, drain_token="pod-uid") as there:
        assert [await there.get(path) for path in ("/health", "/ready")] == [200, 200]
        assert await there.get("/metrics", bearer(A)) == 404
        assert (await there.post(bearer("pod-uid"), "/drain"))[0] == 401
        assert (await there.post(bearer(A), "/drain"))[0] == 404
        admin = f"http://127.0.0.1:{there.server.doors.admin_port}"
        async with aiohttp.ClientSession() as session:
            for path in ("/health", "/ready", "/metrics"):
                async with session.get(admin + path) as answer:
                    assert answer.status == 200
            for path, passes in (("/v1/completions", 200), ("/drain", 202)):
                for key, status in ((A, 401), ("pod-uid", passes)):
                    async with session.post(admin + path, json=COMPLETION, headers=bearer(key)) as answer:
                        assert answer.status == status


# Asked by those who run the server, and have no key.
READABLE = {"/health", "/ready", "/metrics", "/is_sleeping", "/load", "/v2/health/live", "/v2/health/ready"}
OPEN_METHODS = {
    "/headrace.v1.Inference/Drain": grpc.StatusCode.PERMISSION_DENIED,  # it asks for the pod's own token
    "/inference.GRPCInferenceService/ServerLive": grpc.StatusCode.OK,
    "/inference.GRPCInferenceService/ServerReady": grpc.StatusCode.OK,
}


async def test_every_path_wants_a_key_unless_it_is_named_here(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    """A route that is added later is behind the gate without anybody having thought of it."""
    batches = BatchConfig(tmp_path / "batches")
    async with guarded(model, runner, tmp_path, batches=batches) as there, aiohttp.ClientSession() as session:
        app = there.server.doors.http.app
        assert app is not None
        paths = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
        assert len(paths) > 20
        for method, path in paths:
            url = there.server.http + re.sub(r"\{[^}]*\}", "x", path)
            async with session.request(method, url) as answer:
                is_read = method in {"GET", "HEAD"} and path in READABLE
                assert answer.status == (200 if is_read else 401), (method, path)


def grpc_methods() -> list[MethodDescriptor]:
    files = (inference_pb2.DESCRIPTOR, oip_pb2.DESCRIPTOR)
    return [method for file in files for service in file.services_by_name.values() for method in service.methods]


async def test_every_method_wants_a_key_unless_it_is_named_here(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with guarded(model, runner, tmp_path) as there, grpc.aio.insecure_channel(there.server.grpc) as channel:

        async def status(method: MethodDescriptor) -> grpc.StatusCode:
            name = f"/{method.containing_service.full_name}/{method.name}"
            if method.client_streaming:
                call: Any = channel.stream_stream(name)(timeout=PATIENCE)  # and nothing is sent, as above
            elif method.server_streaming:
                call = channel.unary_stream(name)(b"", timeout=PATIENCE)
            else:
                call = channel.unary_unary(name)(b"", timeout=PATIENCE)
            return grpc.StatusCode(await call.code())

        methods = grpc_methods()
        assert len(methods) > 10
        for method in methods:
            name = f"/{method.containing_service.full_name}/{method.name}"
            assert await status(method) is OPEN_METHODS.get(name, grpc.StatusCode.UNAUTHENTICATED), name
