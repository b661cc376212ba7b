"""A trace is replayed through both doors, and every counter and histogram is held against what its clients saw.

Lengths are those of the first requests of the Azure LLM inference trace of 2023 (code), prompts a 200th of them so that
a small context holds them. What is not named here must not have been counted.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from headrace_server.engine.core import Sampled
from headrace_server.engine.sequence import Step
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.telemetry.lengths import length_bucket
from open_server import NAME, OpenServer, SkippingClock, a_stub, open_server
from prometheus_client.samples import Sample
from scripted_runner import Scripted, ScriptedRunner, always

# ContextTokens, GeneratedTokens
TRACE = (
    (4808, 10), (3180, 8), (110, 27), (7433, 14), (34, 12), (374, 14), (1580, 15), (3180, 6), (4808, 5), (2112, 25),
    (1042, 3), (110, 11), (5000, 1), (1316, 17), (6020, 2), (900, 9),
)  # fmt: skip
SCALE, PAGE = 200, 16
BUSY, PADDED = 0.25, 3  # seconds and rows of each step, as the runner says
TEXT = 5  # token id of every answer
SOON = 300.0  # seconds; the deadline that passes
CLOCKS = 1e-3  # seconds by which two readings of one moment may differ


class Told(ScriptedRunner):
    """Counts what it was given."""

    def __init__(self) -> None:
        super().__init__(always([TEXT]))
        self.steps: list[Step] = []

    def launch(self, step: Step) -> Scripted:
        self.steps.append(step)
        return Busy(self, super().launch(step).ids)


class Busy(Scripted):
    def wait(self) -> Sampled:
        return replace(super().wait(), busy=BUSY, padded=PADDED)


@dataclass
class Truth:
    """What clients asked for and got."""

    ended: Counter[str] = field(default_factory=Counter)  # outcome -> requests
    shapes: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompts: int = 0  # tokens asked, of everybody who was admitted
    started_prompts: int = 0  # of those who came to run
    answers: int = 0  # tokens
    longest: int = 0  # tokens that they would have taken at most
    hits: int = 0  # tokens of prompts that were asked before
    with_tokens: int = 0  # requests that got at least one
    with_gaps: int = 0  # ... at least two
    cut: int = 0  # ended while the step after was computed already
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of all requests, at the client

    def saw(self, outcome: str, prompt: int, answer: int, longest: int, *, started: bool = True) -> None:
        self.ended[outcome] += 1
        self.shapes[length_bucket(prompt), length_bucket(answer)] += 1
        self.prompts += prompt
        self.started_prompts += prompt if started else 0
        self.answers += answer
        self.longest += longest
        self.with_tokens += answer > 0
        self.with_gaps += answer > 1

    @property
    def admitted(self) -> int:
        return sum(self.ended.values())


@dataclass(frozen=True, slots=True)
class Client:
    server: OpenServer
    session: aiohttp.ClientSession
    stub: Any
    truth: Truth
    clock: SkippingClock

    async def over_http(self, prompt: list[int], new: int, model: str = NAME, **more: Any) -> tuple[int, int]:
        """Status, and how many tokens came."""
        body = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0} | more
        began = self.clock()
        async with self.session.post("/v1/completions", json=body) as response:
            document = await response.json()
        self.truth.seconds += self.clock() - began
        return response.status, document["usage"]["completion_tokens"] if response.status == 200 else 0

    async def over_grpc(self, prompt: list[int], new: int, **more: Any) -> int:
        began = self.clock()
        request = pb.GenerateRequest(tokens=pb.TokenIds(ids=prompt), max_new_tokens=new, **more)
        tokens = [token async for reply in self.stub.Generate(request) for token in reply.token_ids]
        self.truth.seconds += self.clock() - began
        return len(tokens)


@asynccontextmanager
async def a_client(model: Path, runner: Told) -> AsyncIterator[Client]:
    clock = SkippingClock()
    async with (
        open_server(model, runner, clock=clock, max_running=1, max_waiting=2) as server,
        aiohttp.ClientSession(server.http) as session,
        a_stub(server) as stub,
    ):
        yield Client(server, session, stub, Truth(), clock)


def a_prompt(number: int, tokens: int) -> list[int]:
    """Its first token is its own, so that nothing of it is in the cache unless it was asked before."""
    return [10 + number, *[7] * (tokens - 1)]


async def replay(client: Client) -> None:
    """Every third one over gRPC; each fourth one is asked again at once, and finds its full pages in the cache."""
    for number, (context, generated) in enumerate(TRACE):
        prompt = a_prompt(number, max(1, context // SCALE))
        for again in range(2 if number % 4 == 0 else 1):
            if number % 3:
                status, came = await client.over_http(prompt, generated)
                assert status == 200
            else:
                came = await client.over_grpc(prompt, generated)
            assert came == generated
            client.truth.saw("length", len(prompt), came, generated)
            client.truth.hits += (len(prompt) - 1) // PAGE * PAGE if again else 0


async def stop_early(client: Client) -> None:
    """By a token id: it is generated, and not delivered."""
    assert await client.over_http(a_prompt(100, 9), 8, stop_token_ids=[TEXT]) == (200, 0)
    client.truth.saw("stop", 9, 1, 8)
    client.truth.cut += 1


async def be_refused(client: Client) -> None:
    assert (await client.over_http(a_prompt(101, 5), 1000))[0] == 400
    assert (await client.over_http([], 5))[0] == 400
    assert (await client.over_http(a_prompt(101, 5), 5, model="another"))[0] == 404
    with pytest.raises(grpc.aio.AioRpcError):
        await client.over_grpc([10**6], 5)
    client.truth.refused.update(invalid=3, unknown_model=1)


async def settled(client: Client, runner: Told) -> None:
    """Also the last step is done, which was for nobody."""
    async with asyncio.timeout(120):
        while client.server.sample("headrace_step_seconds_count") < len(runner.steps):
            await asyncio.sleep(0.005)


async def crowd(client: Client, runner: Told) -> None:
    """One runs, held in its first step, and hangs up; one waits until it is late; one hangs up; one is too many."""
    await settled(client, runner)
    began = client.clock()
    runner.gate.clear()
    running = asyncio.create_task(client.over_http(a_prompt(110, 20), 6))
    await client.server.until_running(1)
    late = asyncio.create_task(client.over_http(a_prompt(120, 30), 7, timeout=SOON))
    await client.server.until_inside(2)  # first in line, so that nobody foresees that it will be late
    waiting = asyncio.create_task(client.over_http(a_prompt(121, 40), 8))
    await client.server.until_inside(3)
    assert (await client.over_http(a_prompt(122, 5), 5))[0] == 429
    client.truth.refused.update(overloaded=1)

    for task in (waiting, running):
        task.cancel()
    while client.server.doors.arrivals.inside > 1:
        await asyncio.sleep(0.005)
    client.clock.skipped = SOON
    runner.gate.set()
    assert (await late)[0] == 504
    await client.server.until_inside(0)
    await settled(client, runner)
    client.truth.seconds += 2 * (client.clock() - began)  # of the two who hung up, at most
    client.truth.saw("cancelled", 20, 1, 6)  # the step that held it brought its first token
    client.truth.cut += 1
    client.truth.saw("cancelled", 40, 0, 8, started=False)
    client.truth.saw("expired", 30, 0, 7, started=False)


def counted(samples: list[Sample]) -> dict[str, float]:
    """Every counter, and every histogram's count and sum, that is not zero; labels as Prometheus writes them."""
    found = {}
    for sample in samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        if sample.value and not sample.name.endswith(("_bucket", "_created")):
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def exact(truth: Truth, runner: Told) -> dict[str, float]:
    """Everything that is not a time."""
    started = truth.ended["length"] + truth.ended["stop"] + 1  # and the one that hung up while it ran
    computed = truth.started_prompts - truth.hits
    work = computed + truth.answers - truth.with_tokens + truth.cut  # the last token of an answer is never fed
    steps = len(runner.steps)
    shapes = {
        f"request_shapes_total{{answer={answer},prompt={prompt}}}": n for (prompt, answer), n in truth.shapes.items()
    }
    outcomes = {f"requests_finished_total{{outcome={outcome}}}": n for outcome, n in truth.ended.items()}
    refusals = {f"requests_refused_total{{reason={reason}}}": n for reason, n in truth.refused.items()}
    ours = {
        **shapes,
        **outcomes,
        **refusals,
        "requests_received_total": truth.admitted,
        "requests_received_by_class_total{class=standard}": truth.admitted,
        "requests_refused_by_class_total{class=standard}": truth.refused["overloaded"],
        "requests_finished_by_class_total{class=standard}": truth.admitted,
        "finished_request_tokens_by_class_total{class=standard}": computed + truth.answers,
        "requests_expired_total{phase=queue}": truth.ended["expired"],
        "prompt_tokens_total": computed,
        "generation_tokens_total": truth.answers,
        "finished_request_tokens_total": computed + truth.answers,
        "step_tokens_total{class=standard}": work,
        "discarded_tokens_total": truth.cut,
        "padded_tokens_total": PADDED * steps,
        "prefix_cache_queries_total": truth.started_prompts,
        "prefix_cache_hits_total": truth.hits,
        "device_busy_seconds_total": BUSY * steps,
        "batch_size_count": steps,
        "batch_size_sum": sum(len(step.chunks) for step in runner.steps),
        "tokens_per_step_count": steps,
        "tokens_per_step_sum": work,
        "step_seconds_count": steps,
        "queue_wait_seconds_count{class=standard,tenant_class=default}": started,
        "time_to_first_token_seconds_count": truth.with_tokens,
        "inter_token_latency_seconds_count": truth.answers - truth.with_tokens,
        "request_duration_seconds_count": truth.admitted,
        "prefill_seconds_count": truth.with_tokens,
        "decode_seconds_count": truth.with_tokens,
        "inference_seconds_count": started,
        "time_per_output_token_seconds_count": truth.with_gaps,
        "request_prompt_tokens_count": truth.admitted,
        "request_prompt_tokens_sum": truth.prompts,
        "request_generation_tokens_count": truth.admitted,
        "request_generation_tokens_sum": truth.answers,
        "request_max_tokens_count": truth.admitted,
        "request_max_tokens_sum": truth.longest,
    }
    return {f"headrace_{name}": float(value) for name, value in ours.items() if value}


async def test_every_counter_is_what_the_clients_saw(model: Path) -> None:
    runner = Told()
    async with a_client(model, runner) as client:
        await replay(client)
        await stop_early(client)
        await be_refused(client)
        await crowd(client, runner)
        families = list(client.server.registry.collect())
    truth = client.truth
    ours = [family for family in families if family.name.startswith("headrace_")]
    found = counted([s for family in ours if family.type in ("counter", "histogram") for s in family.samples])
    times = {
        name: found.pop(name) for name in list(found) if "_seconds_sum" in name or name.endswith("busy_seconds_total")
    }
    device_busy = times.pop("headrace_device_busy_seconds_total")
    assert found | {"headrace_device_busy_seconds_total": device_busy} == exact(truth, runner)

    total = {name.removeprefix("headrace_").partition("{")[0]: seconds for name, seconds in times.items()}
    assert 0 < total["request_duration_seconds_sum"] <= truth.seconds
    assert 0 < total["time_to_first_token_seconds_sum"] <= total["request_duration_seconds_sum"]
    stages = total["queue_wait_seconds_sum"] + total["prefill_seconds_sum"]
    assert stages == pytest.approx(total["time_to_first_token_seconds_sum"], abs=CLOCKS)
    assert total["decode_seconds_sum"] == pytest.approx(total["inter_token_latency_seconds_sum"], abs=CLOCKS)
    assert total["step_seconds_sum"] == pytest.approx(total["busy_seconds_total"])
    assert total["inference_seconds_sum"] >= total["prefill_seconds_sum"] + total["decode_seconds_sum"] - CLOCKS


async def test_other_peoples_names_say_the_same(model: Path) -> None:
    runner = Told()
    async with a_client(model, runner) as client:
        await replay(client)
        await stop_early(client)
        await be_refused(client)
        await crowd(client, runner)
        families = list(client.server.registry.collect())
    truth = client.truth
    samples = [sample for family in families for sample in family.samples]

    def value(name: str, **labels: str) -> float:
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    theirs = {
        "prompt_tokens_total": truth.started_prompts,
        "generation_tokens_total": truth.answers,
        "e2e_request_latency_seconds_count": truth.admitted,
        "time_to_first_token_seconds_count": truth.with_tokens,
        "request_time_per_output_token_seconds_count": truth.with_gaps,
        "request_prompt_tokens_sum": truth.prompts,
        "iteration_tokens_total_count": len(runner.steps),
        "num_requests_waiting": 0,
        "num_requests_running": 0,
        "kv_cache_usage_perc": 0,
    }
    assert {name: value(f"vllm:{name}") for name in theirs} == theirs
    reasons = {
        reason: value("vllm:request_success_total", finished_reason=reason) for reason in ("length", "stop", "abort")
    }
    assert reasons == {"length": truth.ended["length"], "stop": 1, "abort": 3}

    def gen_ai(name: str, error: str) -> float:
        labels = {"gen_ai_operation_name": "text_completion", "gen_ai_request_model": NAME, "error_type": error}
        return value(f"gen_ai_server_{name}_seconds_count", **labels)

    served = truth.ended["length"] + truth.ended["stop"]
    assert gen_ai("request_duration", "") == gen_ai("time_to_first_token", "") == served
    assert gen_ai("request_duration", "cancelled") == 2
    assert gen_ai("request_duration", "DeadlineExceeded") == gen_ai("request_duration", "Overloaded") == 1
    assert gen_ai("request_duration", "InvalidRequest") == 3
    assert gen_ai("time_per_output_token", "") == truth.with_gaps
