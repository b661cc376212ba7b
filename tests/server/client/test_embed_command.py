"""`headrace embed`: texts from anywhere, vectors as lines or as an array, from both kinds of server."""

import json
from pathlib import Path

import numpy as np
import pytest
from embed_server import FACTS, EmbedServer, embed_server, vector_of
from headrace_command import headrace
from tiny_tokenizer import save_tiny_tokenizer

DOORS = pytest.mark.parametrize("door", ["grpc", "http"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return directory


def where(server: EmbedServer, door: str) -> str:
    return f"--target={server.grpc}" if door == "grpc" else f"--http={server.http}/v1"


@DOORS
async def test_texts_come_from_arguments_lines_and_files(model: Path, tmp_path: Path, door: str) -> None:
    texts = [f"text {place} 你好" for place in range(7)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": place, "text": text}) + "\n" for place, text in enumerate(texts)))
    async with embed_server(model) as server:
        address = where(server, door)
        given = await headrace(["embed", address, *texts])
        typed = await headrace(["embed", address, "--batch=3"], "\n".join(texts))
        read = await headrace(["embed", address, f"--jsonl={file}", "--batch=2", "--dimensions=5"])
        batches = [len(asked.inputs) for asked in server.embedder.asked]
    for ended in (given, typed, read):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert batches == [7, 3, 3, 1, 2, 2, 2, 1]
    for ended in (given, typed):
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [line["text"] for line in lines] == texts
        np.testing.assert_array_equal(
            np.array([line["embedding"] for line in lines], np.float32), [vector_of(text) for text in texts]
        )
    kept = [json.loads(line) for line in read.stdout.splitlines()]
    assert [(line["id"], line["text"], len(line["embedding"])) for line in kept] == [
        (place, text, 5) for place, text in enumerate(texts)
    ]


@DOORS
async def test_npy_holds_all_vectors_in_order(model: Path, tmp_path: Path, door: str) -> None:
    async with embed_server(model) as server:
        ended = await headrace(
            ["embed", where(server, door), f"--npy={tmp_path / 'out.npy'}", "--batch=2", "a", "b", "c"]
        )
    assert (ended.returncode, ended.stdout) == (0, "")
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [vector_of(text) for text in "abc"])


@DOORS
async def test_a_text_that_is_refused_ends_the_command_after_what_came_before(model: Path, door: str) -> None:
    async with embed_server(model) as server:
        ended = await headrace(["embed", where(server, door), "--batch=1", "good", "a" * (FACTS.max_tokens + 1)])
    assert ended.returncode == 1
    assert [json.loads(line)["text"] for line in ended.stdout.splitlines()] == ["good"]
    assert f"has more than {FACTS.max_tokens} tokens" in ended.stderr


@DOORS
async def test_a_line_that_is_no_text_is_named(model: Path, tmp_path: Path, door: str) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n{"txt": "b"}\n')
    async with embed_server(model) as server:
        ended = await headrace(["embed", where(server, door), "--batch=1", f"--jsonl={file}"])
    assert ended.returncode == 1
    assert [json.loads(line)["text"] for line in ended.stdout.splitlines()] == ["a"]
    assert f"{file}: line 2: has no `text`" in ended.stderr
