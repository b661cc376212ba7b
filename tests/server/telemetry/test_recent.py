"""Rates and shares of the last seconds, on a clock that the test moves; and that nothing is said that is not known."""

import pytest
from engines import Clock
from headrace_server.metrics import ServerMetrics
from headrace_server.telemetry.recent import Recent
from prometheus_client import CollectorRegistry, generate_latest


class Scraped:
    def __init__(self, price: float | None = None, on_gpu: bool = False) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = ServerMetrics(CollectorRegistry())
        self.registry.register(Recent(self.metrics, self.clock, price, on_gpu))

    def at(self, now: float) -> dict[str, float]:
        """What a scrape says then, by name and label value."""
        self.clock.now = now
        lines = [line for line in generate_latest(self.registry).decode().splitlines() if not line.startswith("#")]
        return {name.removeprefix("headrace_"): float(value) for name, value in (line.split() for line in lines)}


def test_rates_are_of_the_time_since_a_snapshot_that_is_old_enough() -> None:
    scraped = Scraped()
    assert scraped.at(0.0) == {}  # a rate of no time
    scraped.metrics.prompt_tokens.inc(100)
    scraped.metrics.generation_tokens.inc(50)
    scraped.metrics.device_busy_seconds.inc(4)
    first = scraped.at(5.0)
    assert first["recent_seconds"] == 5
    assert first['tokens_per_second{kind="prompt"}'] == 20
    assert first['tokens_per_second{kind="generation"}'] == 10
    assert first["device_idle_share"] == pytest.approx(0.2)
    idle = scraped.at(15.0)  # since 5.0, the latest snapshot that is ten seconds old
    assert idle["recent_seconds"] == 10
    assert idle['tokens_per_second{kind="prompt"}'] == 0
    assert idle["device_idle_share"] == 1


def test_two_scrapers_at_once_do_not_shorten_each_others_window() -> None:
    scraped = Scraped()
    scraped.at(0.0)
    scraped.metrics.generation_tokens.inc(30)
    for now in (14.9, 15.0, 15.0, 15.1):
        seen = scraped.at(now)
    assert seen["recent_seconds"] == 15.1
    assert seen['tokens_per_second{kind="generation"}'] == pytest.approx(30 / 15.1)


def test_a_share_of_nothing_is_absent() -> None:
    scraped = Scraped()
    scraped.at(0.0)
    kinds = {f'tokens_per_second{{kind="{kind}"}}' for kind in ("prompt", "generation")}
    assert set(scraped.at(10.0)) == {"recent_seconds", "device_idle_share", *kinds}


def test_cache_hits_and_recompute_tax_are_shares_of_what_was_looked_up_and_computed() -> None:
    scraped = Scraped()
    scraped.at(0.0)
    scraped.metrics.prefix_cache_queries.inc(200)
    scraped.metrics.prefix_cache_hits.inc(50)
    scraped.metrics.step_tokens.labels("standard").inc(300)
    scraped.metrics.step_tokens.labels("batch").inc(100)
    scraped.metrics.recomputed_tokens.inc(40)
    seen = scraped.at(10.0)
    assert (seen["prefix_cache_hit_rate"], seen["recompute_tax"]) == (0.25, 0.1)


def test_utilization_is_of_a_peak_that_somebody_told() -> None:
    scraped = Scraped()
    scraped.at(0.0)
    scraped.metrics.estimated_flops.inc(5e12)
    scraped.metrics.estimated_bytes.inc(2e10)
    assert not {"mfu", "mbu"} & set(scraped.at(10.0))
    scraped.metrics.device_peak_bytes.labels("cpu").set(4e9)
    seen = scraped.at(20.0)
    assert ("mfu" in seen, seen["mbu"]) == (False, 0)
    scraped.metrics.device_peak_flops.labels("bfloat16").set(1e12)
    scraped.metrics.estimated_flops.inc(5e12)
    scraped.metrics.estimated_bytes.inc(2e10)
    seen = scraped.at(30.0)
    assert (seen["mfu"], seen["mbu"]) == (0.5, 0.5)


def test_the_price_of_a_million_tokens() -> None:
    scraped = Scraped(price=3.6, on_gpu=True)  # 0.001 a second
    scraped.at(0.0)
    assert "cost_per_million_tokens" not in scraped.at(10.0)  # nothing was computed: no price
    scraped.metrics.prompt_tokens.inc(1500)
    scraped.metrics.generation_tokens.inc(500)
    scraped.metrics.requests_finished.labels("stop").inc(4)
    scraped.metrics.requests_finished.labels("length").inc(6)
    seen = scraped.at(20.0)  # 2,000 tokens in 10 s for 0.01
    assert seen["cost_per_million_tokens"] == pytest.approx(5.0)
    assert seen["requests_per_gpu_hour"] == pytest.approx(3600)


def test_a_cpu_has_no_gpu_hours_and_no_price_that_nobody_told() -> None:
    scraped = Scraped()
    scraped.at(0.0)
    scraped.metrics.prompt_tokens.inc(1500)
    assert not {"cost_per_million_tokens", "requests_per_gpu_hour"} & set(scraped.at(10.0))
