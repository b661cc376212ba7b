"""The engine as its callers see it: submit, read, hang up, drain, and what a broken device does to everybody."""

import asyncio
import random
from contextlib import aclosing, suppress

import pytest
from engines import LIMITS, a_request, a_running_engine, answer_of, until
from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine, Limits
from headrace_server.errors import Draining, EngineFailed, InvalidRequest, Overloaded
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Sampling
from prometheus_client import CollectorRegistry
from runners import CountingRunner


async def test_an_answer_comes_token_by_token_and_ends_with_its_reason() -> None:
    async with a_running_engine() as running:
        tokens = await answer_of(running.engine, a_request(prompt=5, max_new_tokens=3))
    assert [(token.id, token.finish) for token in tokens] == [(5, None), (6, None), (7, Finish.LENGTH)]


async def test_requests_share_steps_and_keep_their_own_answers() -> None:
    async with a_running_engine(max_tokens_per_step=16) as running:
        running.runner.gate.clear()
        prompts = range(1, 30, 3)
        asked = [asyncio.create_task(answer_of(running.engine, a_request(n, 5))) for n in prompts]
        await until(running.runner.entered.is_set)
        running.runner.gate.set()
        answers = await asyncio.gather(*asked)
    assert [[token.id for token in answer] for answer in answers] == [list(range(n, n + 5)) for n in prompts]
    assert max(len(step.chunks) for step in running.runner.steps) > 1


async def test_a_seed_is_drawn_for_who_brings_none() -> None:
    async with a_running_engine() as running:
        for seed in (None, None, 42):
            await answer_of(running.engine, a_request(sampling=Sampling(temperature=1.0, seed=seed)))
    seeds = [start.sampling.seed for step in running.runner.steps for start in step.starts]
    assert None not in seeds
    assert seeds[0] != seeds[1]
    assert seeds[2] == 42


async def test_the_next_step_is_launched_before_the_tokens_of_this_one_are_known() -> None:
    async with a_running_engine() as running:
        await answer_of(running.engine, a_request(max_new_tokens=9))
    assert running.runner.most_in_flight == 2


async def test_without_overlap_one_step_comes_after_the_other() -> None:
    async with a_running_engine(overlap=False) as running:
        tokens = await answer_of(running.engine, a_request(prompt=5, max_new_tokens=9))
    assert running.runner.most_in_flight == 1
    assert [token.id for token in tokens] == list(range(5, 14))


@pytest.mark.parametrize("overlap", [True, False])
async def test_at_most_one_token_is_thrown_away_for_each_request(overlap: bool) -> None:
    async with a_running_engine(overlap=overlap) as running:
        requests = [a_request(prompt, 9, stop=prompt + 3) for prompt in range(1, 9)]
        answers = await asyncio.gather(*(answer_of(running.engine, request) for request in requests))
        assert {len(answer) for answer in answers} == {4}
        assert running.metric("discarded_tokens_total") <= (8 if overlap else 0)


async def test_the_event_loop_stays_free_while_a_step_computes() -> None:
    async with a_running_engine() as running:
        running.runner.gate.clear()
        first = asyncio.create_task(answer_of(running.engine, a_request(max_new_tokens=1)))
        await until(running.runner.entered.is_set)
        running.engine.submit(a_request(arrived_at=running.clock.now))
        running.clock.now += 3.0
        load = running.engine.load()
        assert (load.waiting, load.running, load.oldest_waiting_seconds) == (1, 1, 3.0)
        assert not first.done()
        running.runner.gate.set()
        await first


async def test_an_idle_engine_does_nothing() -> None:
    async with a_running_engine() as running:
        await answer_of(running.engine, a_request())
        readings = running.clock.readings
        await asyncio.sleep(0.05)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert running.clock.readings <= readings + 1, "the engine thread looks once more, and falls asleep"


class TestRefusals:
    async def test_what_can_never_run(self) -> None:
        async with a_running_engine() as running:
            with pytest.raises(InvalidRequest, match="must not exceed 64"):
                running.engine.submit(a_request(prompt=60, max_new_tokens=10))
            assert running.metric("requests_received_total") == 0

    async def test_a_full_queue_says_when_to_come_back(self) -> None:
        async with a_running_engine(max_running=1, max_waiting=2) as running:
            running.runner.gate.clear()
            running.engine.submit(a_request())
            await until(running.runner.entered.is_set)
            for _ in range(2):
                running.engine.submit(a_request())
            running.clock.now = 7.0
            with pytest.raises(Overloaded, match="2 requests are waiting already") as refused:
                running.engine.submit(a_request())
            assert refused.value.retry_after == 7.0
            assert running.metric("requests_received_total") == 3

    async def test_a_model_whose_cache_is_smaller_than_its_context(self) -> None:
        limits = Limits(max_context=64, vocab_size=10, eos_token_ids=(), kv_pages=3)
        with pytest.raises(ValueError, match="3 pages of 16 tokens cannot hold"):
            Engine(CountingRunner(), EngineConfig(page_size=16), limits, ServerMetrics(CollectorRegistry()))


class TestHangingUp:
    async def test_frees_the_pages_within_two_steps(self) -> None:
        async with a_running_engine() as running:
            running.runner.pause_at = 5
            async with aclosing(running.engine.submit(a_request(max_new_tokens=50))) as tokens:
                await anext(tokens)
                await until(lambda: not running.runner.gate.is_set())
            running.runner.gate.set()
            await until(lambda: running.engine.load().kv_pages_free == LIMITS.kv_pages)
            assert len(running.runner.steps) <= 5 + 2
            await running.engine.drained()
            assert running.metric("requests_finished_total", outcome="cancelled") == 1

    async def test_before_the_first_token_was_asked_for(self) -> None:
        async with a_running_engine(max_running=1) as running:
            running.runner.gate.clear()
            running.engine.submit(a_request())
            await until(running.runner.entered.is_set)
            waiting = running.engine.submit(a_request())
            await waiting.aclose()
            running.runner.gate.set()
            await running.engine.drained()
            assert running.metric("requests_finished_total", outcome="cancelled") == 1
            assert sum(len(step.starts) for step in running.runner.steps) == 1

    async def test_while_a_step_computes_its_token(self) -> None:
        async with a_running_engine() as running:
            running.runner.gate.clear()
            tokens = running.engine.submit(a_request())
            await until(running.runner.entered.is_set)
            await tokens.aclose()
            running.runner.gate.set()
            await running.engine.drained()
            assert running.engine.load().kv_pages_free == LIMITS.kv_pages

    async def test_by_cancelling_the_task_that_reads(self) -> None:
        async with a_running_engine() as running:
            running.runner.gate.clear()
            reader = asyncio.create_task(anext(running.engine.submit(a_request())))
            await until(running.runner.entered.is_set)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            running.runner.gate.set()
            await running.engine.drained()
            assert running.metric("requests_finished_total", outcome="cancelled") == 1

    async def test_a_closed_stream_yields_nothing_more(self) -> None:
        async with a_running_engine() as running:
            tokens = running.engine.submit(a_request())
            await tokens.aclose()
            await tokens.aclose()
            assert [token async for token in tokens] == []

    async def test_at_any_moment_leaves_the_ledger_full(self) -> None:
        dice = random.Random(4)

        async def some_of_it(engine: Engine) -> None:
            request = a_request(dice.randint(1, 40), dice.randint(1, 20))
            async with aclosing(engine.submit(request)) as tokens:
                for _ in range(dice.randint(0, request.max_new_tokens)):
                    await anext(tokens)

        async with a_running_engine(max_tokens_per_step=32, max_running=8) as running:
            await asyncio.gather(*(some_of_it(running.engine) for _ in range(1000)))
            await running.engine.drained()
            assert running.engine.load().kv_pages_free == LIMITS.kv_pages
            outcomes = [running.metric("requests_finished_total", outcome=finish) for finish in Finish]
            assert sum(outcomes) == running.metric("requests_received_total") == 1000
            assert not running.heartbeat.done()


class TestDraining:
    async def test_new_requests_are_refused_and_admitted_ones_answered(self) -> None:
        async with a_running_engine(max_running=1) as running:
            running.runner.gate.clear()
            answers = [asyncio.create_task(answer_of(running.engine, a_request())) for _ in range(3)]
            await until(running.runner.entered.is_set)
            running.engine.begin_drain()
            with pytest.raises(Draining):
                running.engine.submit(a_request())
            drained = asyncio.create_task(running.engine.drained())
            await asyncio.sleep(0)
            assert not drained.done()
            running.runner.gate.set()
            await drained
            assert [len(await answer) for answer in answers] == [4, 4, 4]

    async def test_an_idle_engine_is_drained_at_once(self) -> None:
        async with a_running_engine() as running:
            running.engine.begin_drain()
            await running.engine.drained()


class TestABrokenForwardPass:
    async def test_fails_every_stream_and_the_run(self) -> None:
        async with a_running_engine(max_running=1) as running:
            running.runner.fault = RuntimeError("CUDA error: an illegal memory access")
            answers = [asyncio.create_task(answer_of(running.engine, a_request())) for _ in range(3)]
            for answer in answers:
                with pytest.raises(EngineFailed, match="illegal memory access"):
                    await answer
            with pytest.raises(EngineFailed, match="illegal memory access"):
                await running.heartbeat
            assert running.metric("requests_finished_total", outcome="failed") == 3
            assert running.engine.load().kv_pages_free == LIMITS.kv_pages

    async def test_leaves_nothing_to_submit_to_or_to_drain(self) -> None:
        async with a_running_engine() as running:
            running.runner.fault = RuntimeError("gone")
            with pytest.raises(EngineFailed):
                await answer_of(running.engine, a_request())
            with pytest.raises(EngineFailed, match="gone"):
                running.engine.submit(a_request())
            await running.engine.drained()


async def test_an_engine_that_is_stopped_leaves_no_stream_waiting() -> None:
    async with a_running_engine() as running:
        running.runner.gate.clear()
        answer = asyncio.create_task(answer_of(running.engine, a_request()))
        await until(running.runner.entered.is_set)
        running.heartbeat.cancel()
        with pytest.raises(EngineFailed, match="was stopped"):
            await answer
