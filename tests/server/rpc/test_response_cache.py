"""Answers that are kept: to whom they are told again, to whom never, and what a caller who hangs up leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import orjson
import pytest
from headrace_server.config import AccessConfig, CacheConfig
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.caches.note import CACHE_HEADER, Lookup
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, PATIENCE, OpenServer, a_stub, open_server
from scripted_runner import ScriptedRunner

A, B = new_key(), new_key()
LENGTH = 12
GREEDY: dict[str, Any] = {"model": NAME, "prompt": "In the beginning", "max_tokens": LENGTH, "temperature": 0}
KEEPING = CacheConfig(response_bytes=2**20)


@dataclass(frozen=True, slots=True)
class Client:
    server: OpenServer
    session: aiohttp.ClientSession

    async def ask(self, body: Mapping[str, Any] = GREEDY, key: str = A, **headers: str) -> tuple[Any, Lookup | None]:
        """The answer, or the events of its stream, and what the caches found."""
        bearer = {"Authorization": f"Bearer {key}"}
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        async with self.session.post(self.server.http + path, json=body, headers=bearer | headers) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            said = answer.headers.get(CACHE_HEADER)
        if body.get("stream"):
            events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
            assert events.pop() == "[DONE]"
            return [orjson.loads(event) for event in events], said and Lookup(said)
        return orjson.loads(text), said and Lookup(said)

    @property
    def computed(self) -> float:
        return self.server.sample("headrace_requests_received_total")

    def looked_up(self, lookup: Lookup) -> float:
        return self.server.sample("headrace_cache_lookups_total", cache="response", outcome=lookup)


@asynccontextmanager
async def caching(
    model: Path, runner: ScriptedRunner, directory: Path, caches: CacheConfig = KEEPING
) -> AsyncIterator[Client]:
    keys = directory / "keys"
    keys.write_text(f"{line('team-a', A)}\n{line('team-b', B)}")
    differs = {"access": AccessConfig(api_keys=keys), "caches": caches}
    async with open_server(model, runner, differs=differs) as server, aiohttp.ClientSession() as session:
        yield Client(server, session)


def text_of(answer: Mapping[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def streamed(events: list[dict[str, Any]]) -> str:
    return "".join(choice.get("text") or "" for event in events for choice in event["choices"])


async def test_an_equal_request_is_answered_again_word_for_word_without_the_engine(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with caching(model, runner, tmp_path) as client:
        first, missed = await client.ask()
        again, hit = await client.ask()
        assert (missed, hit) == (Lookup.MISS, Lookup.HIT)
        assert client.computed == 1
        assert again["choices"] == first["choices"]
        assert again["id"] != first["id"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"]
        for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert again["usage"][count] == first["usage"][count]
        assert client.server.sample("headrace_cache_entries", cache="response") == 1
        assert client.server.sample("headrace_cache_bytes", cache="response") > 0


async def test_an_answer_is_streamed_or_whole_wherever_it_came_from(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    streaming = GREEDY | {"stream": True, "stream_options": {"include_usage": True}}
    async with caching(model, runner, tmp_path) as client:
        whole, _ = await client.ask()
        events, hit = await client.ask(streaming)
        assert hit is Lookup.HIT
        assert streamed(events) == text_of(whole)
        assert events[-1]["usage"]["completion_tokens"] == LENGTH
        other = streaming | {"prompt": "And God said"}
        first, _ = await client.ask(other)
        again, hit = await client.ask(other)
        assert hit is Lookup.HIT
        assert streamed(again) == streamed(first)
        assert again[-1]["usage"]["completion_tokens"] == first[-1]["usage"]["completion_tokens"]
        async with a_stub(client.server) as stub:
            call = stub.Generate(
                pb.GenerateRequest(text="In the beginning", max_new_tokens=LENGTH),
                metadata=[("authorization", f"Bearer {A}")],
            )
            assert "".join([reply.text async for reply in call]) == text_of(whole)
            assert dict(await call.trailing_metadata() or ())[CACHE_HEADER] in {Lookup.HIT, Lookup.MISS}


async def test_a_tenant_is_never_told_anothers_answer_and_a_part_of_it_none_of_the_other_parts(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with caching(model, runner, tmp_path) as client:
        bob, eve = {"x-headrace-tenant": "team-a/bob"}, {"x-headrace-tenant": "team-a/eve"}
        found = [
            (await client.ask(key=A))[1], (await client.ask(key=A))[1], (await client.ask(key=B))[1],
            (await client.ask(key=B))[1], (await client.ask(**bob))[1], (await client.ask(**bob))[1],
            (await client.ask(**eve))[1], (await client.ask(key=A))[1],
        ]  # fmt: skip
        hit, miss = Lookup.HIT, Lookup.MISS
        assert found == [miss, hit, miss, hit, miss, hit, miss, hit]
        assert client.computed == 4


@pytest.mark.parametrize(
    ("changes", "sampled", "found"),
    [
        pytest.param({}, False, Lookup.HIT, id="greedy"),
        pytest.param({"temperature": 1, "seed": 7}, False, Lookup.HIT, id="with a seed"),
        pytest.param({"temperature": 1}, False, Lookup.BYPASS, id="sampled"),
        pytest.param({"temperature": 1}, True, Lookup.HIT, id="sampled, and asked to keep that too"),
    ],
)
async def test_what_would_not_come_out_the_same_is_kept_only_if_asked(  # noqa: PLR0917 - fixtures
    model: Path, runner: ScriptedRunner, tmp_path: Path, changes: dict[str, Any], sampled: bool, found: Lookup
) -> None:
    config = CacheConfig(response_bytes=2**20, sampled=sampled)
    async with caching(model, runner, tmp_path, config) as client:
        await client.ask(GREEDY | changes)
        assert (await client.ask(GREEDY | changes))[1] is found


async def test_nothing_is_kept_unless_asked(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    async with caching(model, runner, tmp_path, CacheConfig()) as client:
        assert [(await client.ask())[1], (await client.ask())[1]] == [None, None]
        assert client.computed == 2


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_true():
            await asyncio.sleep(0.005)


async def test_equal_requests_at_once_are_computed_once(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    async with caching(model, runner, tmp_path) as client:
        runner.gate.clear()
        asked = [asyncio.create_task(client.ask(key=key)) for key in (A, A, A, B)]
        await until(lambda: client.looked_up(Lookup.MISS) + client.looked_up(Lookup.SHARED) == 4)
        runner.gate.set()
        answers = await asyncio.gather(*asked)
        assert client.computed == 2  # one of each tenant
        assert [found for _, found in answers].count(Lookup.SHARED) == 2
        assert len({text_of(answer) for answer, _ in answers}) == 1


async def test_who_hangs_up_takes_nothing_from_who_waits_for_the_same(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with caching(model, runner, tmp_path) as client:
        runner.gate.clear()
        first = asyncio.create_task(client.ask())
        await until(lambda: client.computed == 1)
        second = asyncio.create_task(client.ask())
        await until(lambda: client.looked_up(Lookup.SHARED) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.05)  # the server sees that the first one has gone
        runner.gate.set()
        assert len(text_of((await second)[0])) > 0
        assert (await client.ask())[1] is Lookup.HIT
        assert client.server.sample("headrace_requests_finished_total", outcome="cancelled") == 0


async def test_an_answer_that_nobody_waits_for_is_stopped_and_not_kept(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    async with caching(model, runner, tmp_path) as client:
        runner.gate.clear()
        only = asyncio.create_task(client.ask())
        await until(lambda: client.computed == 1)
        only.cancel()
        await asyncio.gather(only, return_exceptions=True)
        await until(lambda: client.server.doors.arrivals.inside == 0)
        runner.gate.set()
        await until(lambda: client.server.sample("headrace_requests_finished_total", outcome="cancelled") == 1)
        answer, found = await client.ask()
        assert found is Lookup.MISS
        assert answer["usage"]["completion_tokens"] == LENGTH


async def test_a_deadline_is_its_callers_own(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    async with caching(model, runner, tmp_path) as client, a_stub(client.server) as stub:
        runner.gate.clear()
        patient = asyncio.create_task(client.ask())
        await until(lambda: client.computed == 1)
        hasty = stub.Generate(
            pb.GenerateRequest(text="In the beginning", max_new_tokens=LENGTH),
            metadata=[("authorization", f"Bearer {A}")],
            timeout=0.3,
        )
        with pytest.raises(grpc.aio.AioRpcError) as late:
            [reply async for reply in hasty]
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        runner.gate.set()
        assert (await patient)[0]["usage"]["completion_tokens"] == LENGTH


async def test_a_refusal_is_not_kept(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    async with caching(model, runner, tmp_path) as client:
        too_long = GREEDY | {"max_tokens": 10**6}
        for _ in range(2):
            async with client.session.post(
                f"{client.server.http}/v1/completions", json=too_long, headers={"Authorization": f"Bearer {A}"}
            ) as answer:
                assert answer.status == 400
        assert client.server.sample("headrace_cache_entries", cache="response") == 0
        assert client.looked_up(Lookup.MISS) == 2
