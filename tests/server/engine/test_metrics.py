"""Every number is checked against what really happened, on a clock that the test moves."""

import asyncio
from dataclasses import replace
from math import isnan

import pytest
from engines import LIMITS, Clock, a_request, a_running_engine, answer_of, until
from headrace_server.config import EngineConfig
from headrace_server.engine.core import Sampled
from headrace_server.engine.loop import Engine
from headrace_server.engine.sequence import Step
from headrace_server.errors import EngineFailed, Overloaded
from headrace_server.metrics import Breakage, ServerMetrics
from headrace_server.request import Finish, Priority
from headrace_server.telemetry.work import ModelWork
from prometheus_client import CollectorRegistry
from runners import Counted, CountingRunner

STANDARD = {"class": "standard", "tenant_class": "default"}


class SteadyRunner(CountingRunner):
    """Every step takes half a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def launch(self, step: Step) -> Counted:
        return HalfASecond(self, super().launch(step).ids)

    def passes(self) -> None:
        self._clock.now += 0.5


class HalfASecond(Counted):
    def wait(self) -> Sampled:
        assert isinstance(self.runner, SteadyRunner)
        self.runner.passes()
        return super().wait()


async def test_the_times_of_two_requests_one_after_the_other() -> None:
    clock = Clock()
    async with a_running_engine(SteadyRunner(clock), clock, max_running=1, overlap=False) as running:
        first = a_request(prompt=6, max_new_tokens=3, arrived_at=0.0)
        second = a_request(prompt=2, max_new_tokens=2, arrived_at=0.0)
        await asyncio.gather(*(answer_of(running.engine, request) for request in (first, second)))

        # first: steps end at 0.5, 1.0, 1.5; second: starts at 1.5, steps end at 2.0 and 2.5
        assert running.metric("queue_wait_seconds_sum", **STANDARD) == 0.0 + 1.5
        assert running.metric("queue_wait_seconds_bucket", le="0.001", **STANDARD) == 1
        assert running.metric("time_to_first_token_seconds_sum") == 0.5 + 2.0
        assert running.metric("inter_token_latency_seconds_sum") == 2 * 0.5 + 0.5
        assert running.metric("inter_token_latency_seconds_count") == 3
        assert running.metric("request_duration_seconds_sum") == 1.5 + 2.5
        assert running.metric("step_seconds_sum") == running.metric("busy_seconds_total") == 2.5
        assert running.metric("step_seconds_count") == running.metric("batch_size_count") == 5


async def test_tokens_are_counted_as_they_are_computed() -> None:
    async with a_running_engine(max_tokens_per_step=4) as running:
        answer = answer_of(running.engine, a_request(prompt=10, max_new_tokens=3))
        await answer
        assert running.metric("prompt_tokens_total") == 10
        assert running.metric("generation_tokens_total") == 3
        assert running.metric("finished_request_tokens_total") == 13
        assert running.metric("requests_finished_total", outcome="length") == 1
        assert running.metric("time_to_first_token_seconds_count") == 1


async def test_a_stop_token_is_generated_though_not_delivered() -> None:
    async with a_running_engine() as running:
        tokens = await answer_of(running.engine, a_request(prompt=5, max_new_tokens=9, stop=7))
        assert [token.id for token in tokens] == [5, 6, None]
        assert running.metric("generation_tokens_total") == 3
        assert running.metric("requests_finished_total", outcome="stop") == 1


async def test_the_work_of_ended_requests_is_all_the_work_of_an_idle_engine() -> None:
    async with a_running_engine(max_tokens_per_step=8, max_running=4) as running:
        streams = [running.engine.submit(a_request(prompt=n, max_new_tokens=12)) for n in range(1, 21)]
        for place, stream in enumerate(streams):
            if place % 3 == 0:
                await stream.aclose()
        await running.engine.drained()
        work = running.metric("prompt_tokens_total") + running.metric("generation_tokens_total")
        assert running.metric("finished_request_tokens_total") == work
        assert running.metric("requests_finished_total", outcome="cancelled") == 7


async def test_gauges_are_true_in_the_middle_of_a_long_step_and_zero_when_idle() -> None:
    async with a_running_engine(max_running=1) as running:
        assert (running.metric("max_running"), running.metric("kv_pages_total")) == (1, 32)
        running.runner.gate.clear()
        answers = [asyncio.create_task(answer_of(running.engine, a_request(20, 4))) for _ in range(3)]
        await until(running.runner.entered.is_set)
        running.clock.now = 60.0
        assert running.metric("requests_running") == 1
        assert running.metric("requests_waiting") == 2
        assert running.metric("oldest_waiting_seconds") == 60.0
        assert running.metric("kv_pages_free") == 30

        running.runner.gate.set()
        await asyncio.gather(*answers)
        for gauge in ("requests_running", "requests_waiting", "oldest_waiting_seconds"):
            assert running.metric(gauge) == 0
        assert running.metric("kv_pages_free") == 32


async def test_requests_are_counted_by_class_from_arrival_to_end() -> None:
    async with a_running_engine(max_running=1, max_waiting=2, prefix_cache=False) as running:
        running.runner.gate.clear()
        batch = [replace(a_request(20, 4), priority=Priority.BATCH) for _ in range(3)]
        first = asyncio.create_task(answer_of(running.engine, batch[0]))
        await until(running.runner.entered.is_set)
        running.clock.now = 60.0
        second = asyncio.create_task(answer_of(running.engine, batch[1]))
        online = asyncio.create_task(answer_of(running.engine, replace(a_request(20, 4), arrived_at=50.0)))
        await until(lambda: running.metric("requests_received_total") == 3)
        with pytest.raises(Overloaded):
            running.engine.submit(batch[2])

        def by_class(name: str) -> list[float]:
            return [running.metric(f"{name}", **{"class": one}) for one in (Priority.STANDARD, Priority.BATCH)]

        assert by_class("requests_received_by_class_total") == [1, 2]
        assert by_class("requests_refused_by_class_total") == [0, 1]
        assert by_class("requests_waiting_by_class") == [1, 1]
        assert by_class("requests_running_by_class") == [0, 1]
        running.runner.gate.set()
        await asyncio.gather(first, second, online)
        assert by_class("requests_finished_by_class_total") == [1, 2]
        assert by_class("finished_request_tokens_by_class_total") == [24, 48]
        assert by_class("oldest_waiting_seconds_by_class") == [0, 0]


async def test_every_outcome_is_there_before_it_happens() -> None:
    async with a_running_engine() as running:
        assert [running.metric("requests_finished_total", outcome=finish) for finish in Finish] == [0] * len(Finish)


async def test_tokens_are_counted_by_class_and_those_of_nobody_apart() -> None:
    class Padding(CountingRunner):
        def launch(self, step: Step) -> Counted:
            return TwoMore(self, super().launch(step).ids)

    class TwoMore(Counted):
        def wait(self) -> Sampled:
            return replace(super().wait(), padded=2)

    async with a_running_engine(Padding(), overlap=False) as running:
        await answer_of(running.engine, replace(a_request(prompt=6, max_new_tokens=3), priority=Priority.BATCH))
        await answer_of(running.engine, replace(a_request(prompt=4, max_new_tokens=1), priority=Priority.INTERACTIVE))
        await running.engine.drained()
        tokens = {each: running.metric("step_tokens_total", **{"class": each}) for each in Priority}
        assert tokens == {Priority.BATCH: 8, Priority.INTERACTIVE: 4, Priority.STANDARD: 0}
        assert running.metric("padded_tokens_total") == 2 * 4


async def test_pressure_is_the_share_of_the_pages_that_are_held() -> None:
    async with a_running_engine() as running:
        assert running.metric("kv_pressure") == 0
        running.runner.gate.clear()
        running.engine.submit(a_request(prompt=31, max_new_tokens=20))  # 2 pages of 32
        await until(running.runner.entered.is_set)
        assert running.metric("kv_pressure") == 2 / 32


async def test_a_wait_that_nobody_has_measured_is_not_zero() -> None:
    async with a_running_engine(max_running=1) as running:
        running.runner.gate.clear()
        for _ in range(2):
            running.engine.submit(a_request())
        await until(running.runner.entered.is_set)
        assert isnan(running.metric("predicted_wait_seconds", **{"class": "standard"}))
        assert running.metric("predicted_wait_seconds", **{"class": "interactive"}) == 0
        assert running.metric("waiting_tokens", **{"class": "standard"}) == 9


async def test_the_work_of_a_step_is_that_of_its_tokens_and_their_contexts() -> None:
    work = ModelWork(1.0, 100.0, 10_000.0, weight_bytes=1000.0, kv_bytes_per_token=1.0)
    registry, clock = CollectorRegistry(), Clock()
    engine = Engine(
        CountingRunner(), EngineConfig(max_tokens_per_step=4), LIMITS, ServerMetrics(registry), clock, work=work
    )
    heartbeat = asyncio.create_task(engine.run())
    await answer_of(engine, a_request(prompt=6, max_new_tokens=2))  # steps of 4, 2 and 1 tokens
    heartbeat.cancel()
    await asyncio.gather(heartbeat, return_exceptions=True)
    assert registry.get_sample_value("headrace_estimated_flops_total") == 7 + 2 * 100 + (10 + 11 + 7) * 10_000
    assert registry.get_sample_value("headrace_estimated_bytes_total") == 3 * 1000 + (4 + 4) + (6 + 2) + (7 + 1)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(MemoryError("no room for 2 GiB"), Breakage.OUT_OF_MEMORY), (RuntimeError("a bad day"), Breakage.OTHER)],
)
async def test_an_engine_that_breaks_says_whether_memory_ran_out(fault: Exception, kind: Breakage) -> None:
    async with a_running_engine() as running:
        running.runner.fault = fault
        with pytest.raises(EngineFailed):
            await answer_of(running.engine, a_request())
        await until(running.heartbeat.done)
        assert {each: running.metric("engine_failures_total", kind=each) for each in Breakage} == {
            each: each is kind for each in Breakage
        }
