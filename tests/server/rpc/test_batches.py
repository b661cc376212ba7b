"""/v1/files and /v1/batches, as OpenAI's own client sees them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from embed_server import CROSS, FACTS, EmbedServer, embed_server, logit_of, vector_of
from headrace_server.config import AdapterDirectory, BatchConfig, LoraConfig
from headrace_server.embedding import Pair
from headrace_server.engine.loop import Engine
from headrace_server.engine.stream import Stream
from headrace_server.request import Priority, Request
from headrace_server.rpc.readiness import Phase
from open_server import CONTEXT, NAME, PAGES, PATIENCE, OpenServer, SkippingClock, open_server
from scripted_runner import ScriptedRunner

FINAL = {"completed", "failed", "expired", "cancelled"}


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    fields = {"model": NAME, "prompt": "In the", "max_tokens": 4} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": fields}


def line_of(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": NAME} | body}


@pytest.fixture
def store(tmp_path: Path) -> BatchConfig:
    return BatchConfig(tmp_path / "store", largest_file=100_000, concurrency=4)


@asynccontextmanager
async def a_client(server: OpenServer | EmbedServer, **headers: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.http}/v1", api_key="none", max_retries=0, default_headers=headers
    ) as client:
        yield client


async def uploaded(client: openai.AsyncOpenAI, lines: list[Any]) -> str:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    file = await client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    return file.id


async def created(client: openai.AsyncOpenAI, lines: list[Any], endpoint: Any = "/v1/completions") -> str:
    batch = await client.batches.create(
        input_file_id=await uploaded(client, lines), endpoint=endpoint, completion_window="24h", metadata={"job": "j"}
    )
    return batch.id


async def until(
    client: openai.AsyncOpenAI, batch_id: str, is_it: Callable[[Any], bool] = lambda batch: batch.status in FINAL
) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not is_it(batch := await client.batches.retrieve(batch_id)):
            await asyncio.sleep(0.01)
    return batch


async def results(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    """By custom_id; fails when one has two."""
    if file_id is None:
        return {}
    lines = [json.loads(one) for one in (await client.files.content(file_id)).text.splitlines()]
    found = {one["custom_id"]: one for one in lines}
    assert len(found) == len(lines)
    return found


async def test_a_batch_runs_and_its_answers_and_its_refusals_are_in_two_files(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    lines = [*(line(f"r{number}") for number in range(9)), line("long", max_tokens=CONTEXT)]
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch_id = await created(client, lines)
        batch = await until(client, batch_id)
        answers, refusals = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
        files = {file.id: (file.purpose, file.filename) async for file in client.files.list()}
    assert batch.status == "completed"
    assert (batch.endpoint, batch.completion_window, batch.metadata) == ("/v1/completions", "24h", {"job": "j"})
    assert batch.expires_at - batch.created_at == 24 * 3600
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.request_counts.model_dump() == {"total": 10, "completed": 9, "failed": 1}
    assert list(answers) == [f"r{number}" for number in range(9)]
    assert answers["r0"]["response"]["body"]["usage"]["completion_tokens"] == 4
    assert answers["r0"]["response"]["status_code"] == 200
    assert list(refusals) == ["long"]
    assert refusals["long"]["response"]["status_code"] == 400
    assert refusals["long"]["response"]["body"]["error"]["param"] == "max_tokens"
    assert files == {
        batch.input_file_id: ("batch", "in.jsonl"),
        batch.output_file_id: ("batch_output", f"{batch_id}_output.jsonl"),
        batch.error_file_id: ("batch_output", f"{batch_id}_error.jsonl"),
    }


async def test_a_batch_of_chats_has_chat_completions(model: Path, runner: ScriptedRunner, store: BatchConfig) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "In"}], "max_tokens": 3}
    chat = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch = await until(client, await created(client, [chat], endpoint="/v1/chat/completions"))
        answer = (await results(client, batch.output_file_id))["c"]["response"]["body"]
    assert (answer["object"], answer["choices"][0]["message"]["role"]) == ("chat.completion", "assistant")


async def test_each_line_may_name_an_adapter(model: Path, runner: ScriptedRunner, store: BatchConfig) -> None:
    differs = {"lora": LoraConfig((AdapterDirectory("poet", Path("poet")),))}
    async with open_server(model, runner, batches=store, differs=differs) as server, a_client(server) as client:
        batch = await until(client, await created(client, [line("a"), line("b", model="poet")]))
        answers = await results(client, batch.output_file_id)
        refused = await until(client, await created(client, [line("c", model="painter")]))
    assert {name: one["response"]["body"]["model"] for name, one in answers.items()} == {"a": NAME, "b": "poet"}
    assert runner.adapters == {"poet"}
    assert refused.status == "failed"
    assert "this server serves 'tiny', 'poet'" in refused.errors.data[0].message


async def test_a_batch_of_texts_has_their_vectors(model: Path, store: BatchConfig) -> None:
    lines = [
        line_of("numbers", "/v1/embeddings", input=["a", "b"], dimensions=3),
        line_of("packed", "/v1/embeddings", input="a", encoding_format="base64"),
        line_of("long", "/v1/embeddings", input="a" * (FACTS.max_tokens + 1)),
    ]
    async with embed_server(model, batches=store) as server, a_client(server) as client:
        batch = await until(client, await created(client, lines, endpoint="/v1/embeddings"))
        found, failed = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
        with pytest.raises(openai.BadRequestError, match="served for /v1/embeddings and /v1/rerank and /v1/score"):
            await created(client, [line("r")])
        asked = server.embedder.asked
    vectors = [one["embedding"] for one in found["numbers"]["response"]["body"]["data"]]
    assert vectors == [pytest.approx(vector_of(text)[:3].tolist()) for text in ("a", "b")]
    packed = found["packed"]["response"]["body"]["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == vector_of("a").tolist()
    assert failed["long"]["response"]["body"]["error"]["param"] == "input"
    assert {ask.priority for ask in asked} == {Priority.BATCH}


async def test_a_batch_of_queries_has_ranked_documents(model: Path, store: BatchConfig) -> None:
    ranked = line_of("r", "/v1/rerank", query="a b", documents=["x", "a b"])
    scored = line_of("s", "/v1/score", text_1="a b", text_2="a b", raw_scores=True)
    async with embed_server(model, facts=CROSS, batches=store) as server, a_client(server) as client:
        first = await until(client, await created(client, [ranked], endpoint="/v1/rerank"))
        second = await until(client, await created(client, [scored], endpoint="/v1/score"))
        order = (await results(client, first.output_file_id))["r"]["response"]["body"]["results"]
        [score] = (await results(client, second.output_file_id))["s"]["response"]["body"]["data"]
    assert [one["index"] for one in order] == [1, 0]
    assert score["score"] == logit_of(Pair("a b", "a b"))


async def test_a_file_with_faults_fails_the_batch_with_every_line_and_field(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    lines = [line("a"), "{", line("a"), line("b", model="other"), line("c", url="/v1/chat/completions")]
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch = await until(client, await created(client, lines))
        received = server.sample("headrace_requests_received_total")
    assert (batch.status, received) == ("failed", 0)
    assert batch.failed_at is not None
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "model_not_found", "body.model"),
        (5, "mismatched_endpoint", "url"),
    ]
    assert (batch.output_file_id, batch.request_counts.total) == (None, 0)


async def test_a_cancelled_batch_stops_at_once_and_keeps_what_it_has(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch_id = await created(client, [line(f"r{number}", max_tokens=40) for number in range(40)])
        await until(client, batch_id, lambda batch: batch.request_counts.completed >= 3)
        left = server.sample("headrace_batch_requests_left")
        cancelling = await client.batches.cancel(batch_id)
        batch = await until(client, batch_id)
        await server.until_inside(0)
        with pytest.raises(openai.ConflictError, match="cancelled") as twice:
            await client.batches.cancel(await done(client))
        answers, rest = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
        assert 0 < left <= 40
        assert server.sample("headrace_batch_requests_left") == 0
    assert "is completed and cannot be cancelled any more" in str(twice.value)
    assert cancelling.status in {"cancelling", "cancelled"}
    assert batch.status == "cancelled"
    assert batch.cancelling_at is not None
    assert len(answers) >= 3
    assert len(rest) > 0
    assert sorted([*answers, *rest]) == sorted(f"r{number}" for number in range(40))
    assert {one["error"]["code"] for one in rest.values()} == {"batch_cancelled"}


async def done(client: openai.AsyncOpenAI) -> str:
    return str((await until(client, await created(client, [line("a")]))).id)


async def test_a_batch_that_is_too_late_expires_and_keeps_what_it_has(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    now = [1_800_000_000.0]
    async with (
        open_server(model, runner, batches=store, wall_clock=lambda: now[0], max_running=1) as server,
        a_client(server) as client,
    ):
        batch_id = await created(client, [line(f"r{number}", max_tokens=40) for number in range(30)])
        await until(client, batch_id, lambda batch: batch.request_counts.completed >= 2)
        now[0] += 24 * 3600
        batch = await until(client, batch_id)
        answers, rest = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
    assert batch.status == "expired"
    assert batch.expired_at == batch.expires_at
    assert len(answers) >= 2
    assert sorted([*answers, *rest]) == sorted(f"r{number}" for number in range(30))
    assert {one["error"]["code"] for one in rest.values()} == {"batch_expired"}


async def test_a_line_that_is_too_late_is_a_504_and_never_a_short_answer(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    clock = SkippingClock()
    async with (
        open_server(model, runner, batches=store, clock=clock, max_running=1) as server,
        a_client(server) as client,
    ):
        runner.gate.clear()
        batch_id = await created(client, [line("first"), line("late", timeout=300), line("last")])
        await server.until_inside(3)
        clock.skipped = 300
        runner.gate.set()
        batch = await until(client, batch_id)
        answers, refusals = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert list(answers) == ["first", "last"]
    assert refusals["late"]["response"]["status_code"] == 504
    assert refusals["late"]["response"]["body"]["error"]["type"] == "timeout_error"


async def test_a_full_queue_delays_a_batch_and_loses_nothing(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    crowd = BatchConfig(tmp_path / "store", concurrency=6)
    async with (
        open_server(model, runner, batches=crowd, max_running=1, max_waiting=1) as server,
        a_client(server) as client,
    ):
        batch = await until(client, await created(client, [line(f"r{number}", max_tokens=1) for number in range(8)]))
    assert batch.status == "completed"
    assert batch.request_counts.completed == 8


async def test_a_stopped_server_goes_on_where_it_was(model: Path, runner: ScriptedRunner, store: BatchConfig) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch_id = await created(client, [line(f"r{number}", max_tokens=8) for number in range(30)])
        before = await until(client, batch_id, lambda batch: batch.request_counts.completed >= 5)
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch = await until(client, batch_id)
        answers = await results(client, batch.output_file_id)
        asked = server.sample("headrace_requests_received_total")
    assert sorted(answers) == sorted(f"r{number}" for number in range(30))
    assert asked <= 30 - before.request_counts.completed


async def test_tenants_neither_see_nor_read_nor_end_each_others_work(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with (
        open_server(model, runner, batches=store, trust_tenant_header=True) as server,
        a_client(server, **{"x-headrace-tenant": "a"}) as ours,
        a_client(server, **{"x-headrace-tenant": "b"}) as theirs,
    ):
        batch_id = await created(ours, [line("r")])
        batch = await until(ours, batch_id)
        assert [one.id async for one in ours.batches.list()] == [batch_id]
        assert [one async for one in theirs.batches.list()] == []
        assert [one async for one in theirs.files.list()] == []
        for forbidden in (
            theirs.batches.retrieve(batch_id),
            theirs.batches.cancel(batch_id),
            theirs.files.retrieve(batch.input_file_id),
            theirs.files.content(batch.output_file_id),
            theirs.files.delete(batch.input_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                await forbidden
        with pytest.raises(openai.BadRequestError, match="input_file_id"):
            await theirs.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/completions", completion_window="24h"
            )


async def test_lists_are_read_in_pages_and_files_can_be_deleted(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        made = [await created(client, [line("r")]) for _ in range(5)]
        for batch_id in made:
            await until(client, batch_id)
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
        inputs = [file.id async for file in client.files.list(limit=2, purpose="batch", order="asc")]
        assert len(inputs) == 5
        gone = await client.files.delete(inputs[0])
        assert (gone.id, gone.deleted) == (inputs[0], True)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(inputs[0])
        assert [file.id async for file in client.files.list(purpose="batch", order="asc")] == inputs[1:]
    kept = {path.name for path in (store.directory / "files").iterdir()}
    assert inputs[0] not in kept
    assert kept > set(inputs[1:])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"endpoint": "/v1/responses"}, "endpoint: ", id="an endpoint that is not served"),
        pytest.param(
            {"endpoint": "/v1/embeddings"}, "this model is served for /v1/completions", id="an endpoint of other models"
        ),
        pytest.param({"completion_window": "1h"}, "completion_window: ", id="another window"),
        pytest.param({"input_file_id": "file-none"}, "upload it first", id="no such file"),
        pytest.param({"metadata": {"k": "v" * 513}}, "metadata", id="long metadata"),
        pytest.param(
            {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "until they are deleted", id="expiry"
        ),
        pytest.param({"extra_body": {"endpiont": "x"}}, "not a known field", id="misspelt"),
    ],
)
async def test_a_batch_that_cannot_be_made_is_refused_with_its_field(
    model: Path, runner: ScriptedRunner, store: BatchConfig, fields: dict[str, Any], says: str
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        asked = {
            "input_file_id": await uploaded(client, [line("r")]),
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        with pytest.raises(openai.BadRequestError, match=says):
            await client.batches.create(**(asked | fields))
        assert [batch async for batch in client.batches.list()] == []


async def test_uploads_that_are_not_whole_leave_nothing(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        with pytest.raises(openai.APIStatusError, match="larger than 100000 bytes") as large:
            await client.files.create(file=("in.jsonl", b"x" * 100_001), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="purpose: is 'vision'; must be 'batch'"):
            await client.files.create(file=("in.jsonl", b"{}"), purpose="vision")
        async with aiohttp.ClientSession(server.http) as session:
            async with session.post("/v1/files", data=b"{}", headers={"Content-Type": "application/json"}) as answer:
                assert (answer.status, "multipart/form-data" in await answer.text()) == (400, True)
            half = {"Content-Type": "multipart/form-data; boundary=b"}
            start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'
            async with session.post("/v1/files", data=start, headers=half) as answer:
                assert answer.status == 400
    assert large.value.status_code == 413
    assert list((store.directory / "files").iterdir()) == []


async def test_without_a_store_every_path_names_the_flag(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        for asked in (
            client.files.create(file=("in.jsonl", b"{}"), purpose="batch"),
            client.batches.retrieve("batch_1"),
            client.batches.cancel("batch_1"),
        ):
            with pytest.raises(openai.NotFoundError, match="--batch-store"):
                await asked


async def test_a_replica_that_drains_takes_nothing_new_in_and_still_tells_what_it_has(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        batch_id = await done(client)
        await server.doors.turn_away(Phase.DRAINING)
        assert (await client.batches.retrieve(batch_id)).status == "completed"
        with pytest.raises(openai.InternalServerError, match="another one will take it") as refused:
            await client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    assert refused.value.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"


async def test_two_servers_do_not_share_a_store(model: Path, runner: ScriptedRunner, store: BatchConfig) -> None:
    async with open_server(model, runner, batches=store):
        with pytest.raises(OSError, match="another server uses it"):
            async with open_server(model, runner, batches=store):
                pass


async def test_a_store_that_fails_accepts_nothing_and_says_so(
    model: Path, runner: ScriptedRunner, store: BatchConfig
) -> None:
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        (store.directory / "files").rename(store.directory / "gone")
        with pytest.raises(openai.InternalServerError, match="the batch store failed") as failed:
            await client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
        assert [file async for file in client.files.list()] == []
    assert failed.value.status_code == 507


async def test_a_store_that_fails_for_a_while_loses_no_result(
    model: Path, runner: ScriptedRunner, store: BatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace_server.rpc.batches import runner as offline

    monkeypatch.setattr(offline, "STORE_RETRY", 0.02)
    async with open_server(model, runner, batches=store) as server, a_client(server) as client:
        runner.gate.clear()
        batch_id = await created(client, [line("r")])
        await server.until_inside(1)
        (store.directory / "files").rename(store.directory / "gone")
        runner.gate.set()
        await until(client, batch_id, lambda batch: batch.status == "finalizing")
        (store.directory / "gone").rename(store.directory / "files")
        batch = await until(client, batch_id)
        assert list(await results(client, batch.output_file_id)) == ["r"]
    assert batch.status == "completed"


async def test_offline_work_is_of_class_batch_and_of_its_tenant(
    model: Path, runner: ScriptedRunner, store: BatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Priority, str]] = []
    submit = Engine.submit

    def noted(engine: Engine, request: Request) -> Stream:
        asked.append((request.priority, request.tenant))
        return submit(engine, request)

    monkeypatch.setattr(Engine, "submit", noted)
    async with (
        open_server(model, runner, batches=store, trust_tenant_header=True) as server,
        a_client(server, **{"x-headrace-tenant": "team-a"}) as client,
    ):
        await done(client)
    assert asked == [(Priority.BATCH, "team-a")]
