"""The operator reads the server's metrics by name: both sides of that promise in one place."""

import pytest
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe import exposition
from headrace_operator.observe import server_facts as start
from headrace_operator.observe.exposition import NEEDED, parse
from headrace_operator.observe.server_facts import ServerFacts, server_facts
from headrace_server.errors import Refusal
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Priority
from headrace_server.tenants import TenantClass
from prometheus_client import CollectorRegistry, generate_latest


@pytest.fixture
def exported() -> tuple[ServerMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return ServerMetrics(registry), registry


def test_every_number_arrives(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    metrics.requests_waiting.set(4)
    metrics.requests_running.set(3)
    metrics.max_running.set(8)
    metrics.kv_pages_total.set(200)
    metrics.kv_pages_free.set(50)
    metrics.oldest_waiting_seconds.set(1.5)
    metrics.requests_received.inc(20)
    metrics.requests_refused.labels(Refusal.OVERLOADED).inc(2)
    metrics.requests_refused.labels(Refusal.LATE).inc(3)
    for strange in (Refusal.INVALID, Refusal.TENANT_LIMIT):
        metrics.requests_refused.labels(strange).inc(100)
    metrics.requests_finished.labels("stop").inc(5)
    metrics.requests_finished.labels("length").inc(6)
    metrics.requests_finished.labels("failed").inc(1)
    metrics.inter_token_latency_seconds.observe(0.25)
    metrics.inter_token_latency_seconds.observe(0.5)
    metrics.prompt_tokens.inc(100)
    metrics.generation_tokens.inc(50)
    metrics.finished_request_tokens.inc(120)
    waits = metrics.queue_wait_seconds
    waits.labels(Priority.INTERACTIVE, TenantClass.NAMED).observe(0.002)
    for wait in (0.3, 400):
        waits.labels(Priority.STANDARD, TenantClass.DEFAULT).observe(wait)
    waits.labels(Priority.BATCH, TenantClass.DEFAULT).observe(500)

    sample = parse(generate_latest(registry).decode(), at=7.0)

    assert (sample.at, sample.waiting, sample.running, sample.max_running) == (7.0, 4, 3, 8)
    assert (sample.oldest_waiting, sample.received, sample.finished) == (1.5, 25, 12)
    assert (sample.failed, sample.refused, sample.kv_use) == (1, 5, 0.75)
    assert (sample.token_gaps, sample.token_gap_seconds) == (2, 0.75)
    assert (sample.tokens, sample.finished_tokens) == (150, 120)
    counts = dict(sample.queue_waits)
    assert (counts[0.001], counts[0.0025], counts[0.5], counts[float("inf")]) == (0, 1, 2, 3)
    assert list(counts) == sorted(counts)


def test_offline_work_is_no_demand(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    """It fills what online work leaves: it orders no replica, and keeps none."""
    metrics, registry = exported
    for priority, number in ((Priority.INTERACTIVE, 1), (Priority.STANDARD, 2), (Priority.BATCH, 100)):
        metrics.requests_waiting_by_class.labels(priority).set(number)
        metrics.requests_running_by_class.labels(priority).set(number)
        metrics.oldest_waiting_seconds_by_class.labels(priority).set(number)
        metrics.requests_received_by_class.labels(priority).inc(10 * number)
        metrics.requests_refused_by_class.labels(priority).inc(number)
        metrics.requests_retried_by_class.labels(priority).inc(3 * number)
        metrics.requests_finished_by_class.labels(priority).inc(2 * number)
        metrics.finished_request_tokens_by_class.labels(priority).inc(30 * number)
    for whole in (metrics.requests_received, metrics.requests_refused.labels(Refusal.OVERLOADED)):
        whole.inc(1000)
    metrics.requests_waiting.set(1000)
    metrics.requests_finished.labels("failed").inc(500)
    metrics.generation_tokens.inc(5000)

    sample = parse(generate_latest(registry).decode(), at=7.0)

    assert (sample.waiting, sample.running, sample.oldest_waiting) == (3, 3, 2.0)
    assert (sample.received, sample.refused, sample.retried) == (33, 3, 9)
    assert (sample.finished, sample.finished_tokens) == (6, 90)
    assert sample.tokens == 5000, "what a replica carries is all that it computes"


def test_a_fresh_server_has_every_series(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    sample = parse(generate_latest(exported[1]).decode(), at=0.0)
    assert sample.received == sample.finished == sample.tokens == 0


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_series_is_unknown_and_never_zero(
    exported: tuple[ServerMetrics, CollectorRegistry], name: str
) -> None:
    text = generate_latest(exported[1]).decode()
    without = "\n".join(line for line in text.splitlines() if not line.startswith(f"{name} ")) + "\n"
    with pytest.raises(ScrapeFailed, match=name):
        parse(without, at=0.0)


def test_what_the_operator_asks_for_is_all_that_it_reads(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    """It asks for a tenth of a server's series by name; no other name may be needed."""
    metrics, registry = exported
    for priority in Priority:
        metrics.queue_wait_seconds.labels(priority, TenantClass.DEFAULT).observe(0.2)
        metrics.requests_waiting_by_class.labels(priority).set(3)
    metrics.requests_finished.labels("failed").inc()
    metrics.requests_refused.labels(Refusal.LATE).inc()
    metrics.startup_phase_timestamp_seconds.labels("weights").set(5.0)
    metrics.device_info.labels("cpu").set(1)
    whole = generate_latest(registry).decode()
    asked = generate_latest(registry.restricted_registry([*exposition.READ, *start.READ])).decode()
    assert len(asked) < len(whole) / 3
    assert parse(asked, at=1.0) == parse(whole, at=1.0)
    assert server_facts(asked) == server_facts(whole) != ServerFacts()


def test_a_server_tells_of_its_start_and_its_device(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    assert server_facts(generate_latest(registry).decode()) == ServerFacts(drained=False)
    for phase, at in (("import", 1.0), ("weights", 1767225610.25), ("warming", 1767225619.5)):
        metrics.startup_phase_timestamp_seconds.labels(phase).set(at)
    metrics.device_info.labels("cuda").set(1)
    metrics.drained.set(True)
    told = server_facts(generate_latest(registry).decode())
    assert told == ServerFacts(weights_at=1767225610.25, warmed_at=1767225619.5, device="cuda", drained=True)
