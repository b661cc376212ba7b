"""`headrace serve --task embed` as a real process with real weights: both doors, the SDK, metrics, the way out."""

import signal
from pathlib import Path

import aiohttp
import numpy as np
import openai
from minilm import minilm
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from served_process import NAME, ServedProcess, serve_command, served

TEXTS = ["water runs through the headrace", "the wheel turns", "a bank lends money", "a loan from the bank " * 20]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


async def test_a_client_of_openai_gets_the_vectors_of_sentence_transformers(tmp_path: Path) -> None:
    command = serve_command(minilm(), "--task=embed", "--cpu-threads=1")
    async with served(command, tmp_path) as server:
        async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none") as client:
            found = await client.embeddings.create(model=NAME, input=TEXTS)
            short = await client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=64)
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
    assert 'headrace_queue_wait_seconds_count{class="standard",tenant_class="default"} 5.0' in metrics
    assert status == 0


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
