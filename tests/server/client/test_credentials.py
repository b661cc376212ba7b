"""Every command against a server that asks who calls: API keys, and client certificates over TLS."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from headrace_command import headrace
from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import oip_pb2, oip_pb2_grpc
from open_server import HOST, NAME, OpenServer, a_stub, open_server
from scripted_runner import ScriptedRunner, always
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer

ANSWER = "God created "
LOAD = ["--rate=50", "--requests=4", "--prompt-words=1:3", "--max-new-tokens=2:2", "--json=-"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return directory


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner(always(tiny_tokenizer().encode(ANSWER).ids))


async def each_command(
    server: OpenServer, http: str, flags: Sequence[str], tmp_path: Path, *, most: int = 6, **variables: str
) -> list[subprocess.CompletedProcess[str]]:
    jobs, results = tmp_path / "jobs.jsonl", tmp_path / "results.jsonl"
    body = {"model": NAME, "prompt": "In", "max_tokens": 2}
    jobs.write_text(json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
    results.unlink(missing_ok=True)
    grpc_flag, http_flag = f"--target={server.grpc}", f"--http={http}"
    commands = [
        ["complete", grpc_flag, "--max-new-tokens=2", "In"],
        ["chat", grpc_flag, "--max-new-tokens=2"],
        ["chat", http_flag, "--max-new-tokens=2"],
        ["load", grpc_flag, *LOAD],
        ["load", http_flag, *LOAD],
        ["batch", "run", str(jobs), str(results), f"--server={http}", "--patience=0.1"],
    ]
    return await asyncio.gather(*(headrace([*words, *flags], "In\n", **variables) for words in commands[:most]))


async def test_a_key_comes_from_a_file_or_from_the_environment(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    key, keys, held = new_key(), tmp_path / "keys", tmp_path / "key"
    keys.write_text(line("team-a", key) + "\n")
    held.write_text(key + "\n")
    async with open_server(model, runner, differs={"access": AccessConfig(keys)}) as server:
        from_file = await each_command(server, server.http, [f"--api-key-file={held}"], tmp_path)
        from_environment = await each_command(server, server.http, [], tmp_path, most=3, HEADRACE_API_KEY=key)
        without = await each_command(server, server.http, [], tmp_path, most=3)
    assert [one.stderr for one in from_file + from_environment if one.returncode] == []
    assert all(one.returncode != 0 for one in without)
    assert "UNAUTHENTICATED" in without[0].stderr


async def test_client_certificates_are_shown_over_tls(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    pair, client = authority.sign("server", HOST, "localhost"), authority.sign("client", "team-a")
    files = TlsFiles(pair.certificate, pair.key, authority.certificate)
    shown = [f"--ca={authority.certificate}", f"--cert={client.certificate}", f"--key={client.key}"]
    async with open_server(model, runner, differs={"access": AccessConfig(tls=files)}) as server:
        http = f"https://{HOST}:{server.doors.http_port}"
        with_certificate = await each_command(server, http, shown, tmp_path)
        unknown = await each_command(server, http, shown[:1], tmp_path, most=3)
    assert [one.stderr for one in with_certificate if one.returncode] == []
    assert all(one.returncode != 0 for one in unknown)


async def test_probes_need_no_key_and_drain_needs_the_pods_uid_alone(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line("team-a", new_key()) + "\n")
    differs = {"access": AccessConfig(keys), "drain_token": "uid"}
    async with open_server(model, runner, differs=differs) as server, a_stub(server) as stub:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            oip = oip_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await oip.ServerReady(oip_pb2.ServerReadyRequest())).ready
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await oip.ModelMetadata(oip_pb2.ModelMetadataRequest(name=NAME))
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await stub.Drain(pb.DrainRequest(), metadata=(("authorization", "Bearer uid"),))).inside == 0
