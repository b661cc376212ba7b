"""The whole server as Kubernetes meets it: a process with arguments, ports, signals and an exit status."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest
from checkpoints import edit_config, write_checkpoint
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from served_process import HEADRACE, NAME, PATIENCE, ServedProcess, environment, refused, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer

CONTEXT = 4096
LONG = 4000  # tokens that keep the tiny model busy for seconds, longer than a test needs to send a signal
SHORT = 187  # tokens of each of many


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def a_checkpoint(directory: Path) -> Path:
    write_checkpoint(directory, max_position_embeddings=CONTEXT)
    save_tiny_tokenizer(directory)
    return directory


def a_request(tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="In the beginning", max_new_tokens=tokens, ignore_eos=True)


async def answer(server: ServedProcess, tokens: int) -> pb.GenerateReply:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(a_request(tokens))
        return [reply async for reply in call][-1]


async def test_a_process_answers_on_both_doors_and_sigterm_loses_nothing(checkpoint: Path, tmp_path: Path) -> None:
    async with served(serve_command(checkpoint, "--max-running=8"), tmp_path) as server:
        said = await asyncio.to_thread(complete, server)
        completion, metrics = await http_answer(server, 8), await http_metrics(server)

        running = [asyncio.create_task(answer(server, SHORT)) for _ in range(24)]  # three times what runs together
        event_streams = [asyncio.create_task(http_stream(server, SHORT)) for _ in range(4)]
        await until_running(server)
        server.terminate()
        await until_phase(server, "draining")
        late = await answer(server, 4)  # by someone who has not heard of it yet
        replies = await asyncio.gather(*running)
        texts = await asyncio.gather(*event_streams)
        status = await server.exit_status()

    assert said.stdout.rstrip("\n") == completion.rstrip("\n")  # greedy, so both doors say the same
    assert "new tokens, queue wait" in said.stderr
    assert 'headrace_model_info{device="cpu",dtype="float32",name="tiny"} 1.0' in metrics
    for phase in ("tokenizer", "import", "weights", "kv_cache", "warming"):
        assert f'headrace_startup_phase_seconds{{phase="{phase}"}}' in metrics
    assert status == 0
    assert late.usage.generated_tokens == 4
    assert {reply.usage.generated_tokens for reply in replies} == {SHORT}
    assert {text.rsplit("\n\n", 2)[-2] for text in texts} == {"data: [DONE]"}


async def test_a_second_sigterm_ends_the_process_at_once(checkpoint: Path, tmp_path: Path) -> None:
    async with served(serve_command(checkpoint), tmp_path) as server:
        stream = asyncio.create_task(answer(server, LONG))
        await until_running(server)
        server.terminate()
        await until_phase(server, "draining")
        server.terminate()
        assert await server.exit_status() == -15
        with pytest.raises(grpc.aio.AioRpcError):
            await stream


async def test_sigterm_while_loading_ends_the_process_with_status_zero(checkpoint: Path, tmp_path: Path) -> None:
    async with served(serve_command(checkpoint), tmp_path, ready=False) as server:
        server.terminate()
        assert await server.exit_status() == 0
        assert "before the model was loaded" in server.log.read_text()


async def test_a_forward_pass_that_breaks_ends_the_process(checkpoint: Path, tmp_path: Path) -> None:
    breaking = tmp_path / "breaking.py"  # no real input breaks a forward pass
    breaking.write_text(
        "import sys\n"
        "from headrace_server.cli import main\n"
        "from headrace_server.model.runner import ModelRunner\n"
        "def broken(self, step): raise RuntimeError('device lost')\n"
        "ModelRunner.launch = broken\n"
        "ModelRunner.warm_up = lambda self: None\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(breaking), *serve_command(checkpoint)[1:]]
    async with served(command, tmp_path) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await answer(server, 4)
        status = await server.exit_status()
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "device lost" in (failed.value.details() or "")
    assert status == 70


def no_directory(model: Path) -> Path:
    return model / "nowhere"


def no_tokenizer(model: Path) -> Path:
    (model / "tokenizer.json").unlink()
    return model


def pickled_weights(model: Path) -> Path:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    return model


def weights_of_gptq(model: Path) -> Path:
    edit_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    return model


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(no_directory, "nowhere is not a directory", id="no directory"),
        pytest.param(no_tokenizer, "tokenizer.json: not found; save the tokenizer beside", id="no tokenizer"),
        pytest.param(pickled_weights, "holds only pickled weights", id="pickled weights"),
        pytest.param(weights_of_gptq, "serve it with --quantization=int8 or int4", id="weights of GPTQ"),
    ],
)
def test_a_checkpoint_that_cannot_be_served_ends_with_78_and_its_reason(tmp_path: Path, spoil, says: str) -> None:
    (tmp_path / "model").mkdir()
    model = spoil(a_checkpoint(tmp_path / "model"))
    assert says in refused(serve_command(model), tmp_path)


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port"])
def test_a_port_that_is_taken_ends_the_process_with_its_number(checkpoint: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [*serve_command(checkpoint), f"{flag}={port}"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 1
    assert str(port) in ended.stderr.splitlines()[-1]


def complete(server: ServedProcess) -> subprocess.CompletedProcess[str]:
    command = [HEADRACE, "complete", f"--target={server.grpc}", "--max-new-tokens=8", "In the beginning"]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)


async def http_answer(server: ServedProcess, tokens: int) -> str:
    body = {"model": NAME, "prompt": "In the beginning", "max_tokens": tokens, "temperature": 0}
    url = f"http://{server.http}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return (await response.json())["choices"][0]["text"]


async def http_metrics(server: ServedProcess) -> str:
    async for page in pages_of(server, "/metrics"):
        return page
    raise AssertionError


async def http_stream(server: ServedProcess, tokens: int) -> str:
    body = {"model": NAME, "prompt": "In the", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    url = f"http://{server.http}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return await response.text()


async def until_running(server: ServedProcess) -> None:
    async for page in pages_of(server, "/metrics"):
        if "headrace_requests_running 0.0" not in page and "headrace_generation_tokens_total 0.0" not in page:
            return


async def until_phase(server: ServedProcess, phase: str) -> None:
    async for page in pages_of(server, "/ready"):
        if json.loads(page)["phase"] == phase:
            return


async def pages_of(server: ServedProcess, path: str) -> AsyncIterator[str]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        while True:
            async with session.get(f"http://{server.http}{path}") as response:
                yield await response.text()
            await asyncio.sleep(0.02)
