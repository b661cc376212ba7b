"""`headrace serve --task embed` and `rerank` as real processes: both doors, the SDK, metrics, the way out."""

import signal
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from cross_encoders import write_cross_encoder
from minilm import minilm
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from served_process import NAME, ServedProcess, serve_command, served

TEXTS = ["water runs through the headrace", "the wheel turns", "a bank lends money", "a loan from the bank " * 20]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


async def test_a_client_of_openai_gets_the_vectors_of_sentence_transformers(tmp_path: Path) -> None:
    peaks = ("--peak-tflops=1", "--peak-memory-gbs=20")
    command = serve_command(minilm(), "--task=embed", "--cpu-threads=1", *peaks)
    async with served(command, tmp_path) as server:
        async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none") as client:
            found = await client.embeddings.create(model=NAME, input=TEXTS)
            short = await client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=64)
            near = await rerank(client, TEXTS[2], [TEXTS[1], TEXTS[3]])
        await the_other_task_is_refused_by_name(server)
        metrics = await text(server, "/metrics")
        server.process.send_signal(signal.SIGTERM)
        status = await server.exit_status()
    vectors = np.array([one.embedding for one in found.data], dtype=np.float32)
    expected = np.asarray(SentenceTransformer(str(minilm()), device="cpu").encode(TEXTS), dtype=np.float32)
    assert cosine(vectors, expected).min() >= 0.9999
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(short.data[0].embedding, expected[0, :64] / np.linalg.norm(expected[0, :64]), atol=1e-4)
    assert found.usage.prompt_tokens > 40
    assert 'headrace_queue_wait_seconds_count{class="standard",tenant_class="default"} 8.0' in metrics
    assert [one["index"] for one in near] == [1, 0], "a bank is nearer to a loan than to a wheel"
    assert near[0]["relevance_score"] == pytest.approx(float(expected[2] @ expected[3]), abs=1e-4)
    numbers = {line.split(" ")[0]: line.split(" ")[1] for line in metrics.splitlines() if not line.startswith("#")}
    assert float(numbers["headrace_estimated_flops_total"]) > 2 * 10e6 * found.usage.prompt_tokens  # of 10.6 M weights
    assert float(numbers["headrace_estimated_bytes_total"]) > 4 * 10e6
    assert float(numbers['headrace_device_peak_flops{dtype="float32"}']) == 1e12
    assert status == 0


async def test_a_cross_encoder_ranks_as_sentence_transformers_does(tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_cross_encoder(model)
    async with served(serve_command(model, "--task=rerank", "--cpu-threads=1"), tmp_path) as server:
        async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none") as client:
            ranked = await rerank(client, TEXTS[0], TEXTS[1:], truncate_prompt_tokens=-1)
            with pytest.raises(openai.BadRequestError, match=r"together with `query` has .* at most 64 fit"):
                await rerank(client, TEXTS[0], TEXTS[1:])
        server.terminate()
        assert await server.exit_status() == 0
    oracle = CrossEncoder(str(model), device="cpu", max_length=64)
    expected = oracle.rank(TEXTS[0], TEXTS[1:])
    assert [one["index"] for one in ranked] == [one["corpus_id"] for one in expected]
    assert [one["relevance_score"] for one in ranked] == pytest.approx([one["score"] for one in expected], abs=1e-4)


async def rerank(client: openai.AsyncOpenAI, query: str, documents: list[str], **more: Any) -> list[dict[str, Any]]:
    body = {"model": NAME, "query": query, "documents": documents} | more
    answer: dict[str, Any] = await client.post("/rerank", body=body, cast_to=dict)
    found: list[dict[str, Any]] = answer["results"]
    return found


async def the_other_task_is_refused_by_name(server: ServedProcess) -> None:
    body = {"model": NAME, "prompt": "once", "max_tokens": 3}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{server.http}/v1/completions", json=body) as no,
    ):
        assert no.status == 400
        assert "embeds and does not generate" in (await no.json())["error"]["message"]


async def text(server: ServedProcess, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.http}{path}") as answer:
        return await answer.text()
