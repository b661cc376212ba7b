"""What the operator's /metrics tells: the numbers of a look, nothing unknown, and nothing of what is gone."""

import asyncio
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cluster import debian
from headrace_operator import api_calls, kube, series, work_queue
from headrace_operator.decide import leaving
from headrace_operator.decide.actions import DeletePod
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.situation import look
from headrace_operator.decide.status import Tick, status
from headrace_operator.decide.values import Observed, PodPhase, Role, Startup
from headrace_operator.errors import InvalidSpec, Unavailable
from headrace_operator.kube import APPLY, MERGE, Call
from headrace_operator.metrics import OBJECT, OperatorMetrics
from headrace_operator.observe.scrape import Failure, Scraper
from headrace_operator.probes import serve
from headrace_operator.service import InferenceDeployment
from headrace_operator.work_queue import Backlog, Key, WorkQueue
from observations import NOW, deployment, pod, sample, scaling, settled, signals
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

KEY = ("default", "llama")
LABELS = dict(zip(OBJECT, KEY, strict=True))
BOUNDED = {
    "verb",
    "resource",
    "code",
    "state",
    "reason",
    "direction",
    "signal",
    "mode",
    "role",
    "phase",
    "step",
    "type",
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> OperatorMetrics:
    return OperatorMetrics(registry)


def tick_of(seen: Observed, given: InferenceDeployment | None = None) -> Tick:
    """A look at these pods, when little is known of the load."""
    history = History(desired=len(seen.live))
    measured = signals(len(seen.ready), queue_wait_p95=None, typical_wait=None, capacity=None)
    decision = decide(look(scaling(), seen, measured, history, NOW))
    return Tick(given or deployment(), "image:1", seen, decision, history, NOW, progress=settled())


def told(metrics: OperatorMetrics, tick: Tick) -> None:
    series.tell(metrics, tick, status(tick, {})["conditions"])


def read(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"headrace_operator_{name}", {**LABELS, **labels})


def labels_of(registry: CollectorRegistry, name: str) -> list[Mapping[str, str]]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return [one.labels for family in families for one in family.samples if one.name == f"headrace_operator_{name}"]


def test_a_look_is_told_whole(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    seen = Observed((pod(0), pod(1), pod(2, PodPhase.LOADING), pod(3, role=Role.STANDBY, routable=False)))
    tick = tick_of(seen)
    told(metrics, tick)
    decision = tick.decision
    assert read(registry, "ready_replicas") == 2
    assert read(registry, "warm_replicas") == 1
    assert read(registry, "desired_replicas") == decision.replicas
    assert read(registry, "min_replicas") == 1
    assert read(registry, "max_replicas") == 100
    assert read(registry, "queue_wait_target_seconds") == 0.5
    assert read(registry, "pods", role="replica", phase="Ready") == 2
    assert read(registry, "pods", role="replica", phase="Loading") == 1
    assert read(registry, "pods", role="standby", phase="Ready") == 1
    assert read(registry, "mode", mode="Auto") == 1
    assert read(registry, "last_decision_timestamp_seconds") == NOW
    assert read(registry, "reason", reason=str(decision.reason)) == 1
    assert read(registry, "condition", type="Ready") == 1


def test_what_is_not_known_has_no_series_and_never_an_old_value(
    registry: CollectorRegistry, metrics: OperatorMetrics
) -> None:
    tick = tick_of(Observed((pod(0),)))
    signals = replace(tick.decision.signals, queue_wait_p95=0.3, arrivals=2.0, capacity=100.0)
    known = replace(tick.decision, situation=replace(tick.decision.situation, signals=signals))
    told(metrics, replace(tick, decision=known))
    assert read(registry, "queue_wait_p95_seconds") == 0.3
    told(metrics, tick)
    for name in ("queue_wait_p95_seconds", "arrivals_per_second", "replica_capacity_tokens_per_second"):
        assert read(registry, name) is None, name
    assert read(registry, "condition", type="ModelValid") == 1
    told(metrics, tick_of(Observed((pod(0, PodPhase.LOADING),))))
    assert read(registry, "condition", type="ModelValid") is None, "Unknown is neither 0 nor 1"
    assert read(registry, "pods", role="replica", phase="Ready") is None


def test_only_a_change_moves_the_time_of_the_last_change(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    tick = tick_of(Observed((pod(0),)))
    decision = tick.decision
    told(metrics, replace(tick, decision=replace(decision, current=1, replicas=3, reason=Reason.LOAD_ROSE)))
    told(metrics, replace(tick, decision=replace(decision, current=3, replicas=3, reason=Reason.STEADY), now=NOW + 60))
    assert read(registry, "last_change_timestamp_seconds", direction="up", reason="LoadRose") == NOW
    assert read(registry, "last_decision_timestamp_seconds") == NOW + 60
    assert read(registry, "decisions_total", direction="up", reason="LoadRose") == 1
    assert read(registry, "decisions_total", direction="none", reason="Steady") == 1
    told(metrics, replace(tick, decision=replace(decision, current=3, replicas=1, reason=Reason.LOAD_FELL)))
    assert [labels["direction"] for labels in labels_of(registry, "last_change_timestamp_seconds")] == ["down"]


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        pytest.param({"phase": PodPhase.LOADING, "created_at": NOW - 90}, 90, id="since it was created"),
        pytest.param(
            {"phase": PodPhase.LOADING, "created_at": NOW - 90, "startup": Startup(scheduled_at=NOW - 20)},
            20, id="the wait for a GPU is no start",
        ),
        pytest.param(
            {"phase": PodPhase.WARMING_UP, "restarts": 1, "startup": Startup(NOW - 9000, NOW - 5)},
            5, id="a restarted pod starts anew",
        ),
        pytest.param({"phase": PodPhase.UNSCHEDULABLE, "created_at": NOW - 90}, 0, id="it has not begun"),
        pytest.param({"phase": PodPhase.READY, "created_at": NOW - 90}, 0, id="it is over"),
        pytest.param({"phase": PodPhase.UNREADY, "created_at": NOW - 90}, 0, id="it has served"),
    ],
)  # fmt: skip
def test_how_long_the_longest_start_takes(
    registry: CollectorRegistry, metrics: OperatorMetrics, changes: dict[str, Any], seconds: float
) -> None:
    told(metrics, tick_of(Observed((pod(0), pod(1, **changes)))))
    assert read(registry, "oldest_start_seconds") == seconds


def fill(metrics: OperatorMetrics) -> None:
    """Everything that can be told of KEY."""
    told(metrics, tick_of(Observed((pod(0), pod(1, PodPhase.LOADING)))))
    for counter in (metrics.scrape_failures, metrics.drain_timeouts):
        counter.labels(*KEY).inc()
    metrics.rollout_steps.labels(*KEY, "RolledBack", "QualityWorse").inc()
    metrics.startup_seconds.labels(*KEY, "weights").observe(3)


def test_the_series_of_an_object_go_with_it(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    fill(metrics)
    told(metrics, tick_of(Observed(()), deployment(name="other")))
    metrics.forget(*KEY)
    text = generate_latest(registry).decode()
    assert 'name="llama"' not in text
    assert 'name="other"' in text
    metrics.forget(*KEY)  # what was never told of may go as well
    told(metrics, tick_of(Observed((pod(0),))))
    assert read(registry, "ready_replicas") == 1, "an object of the same name starts afresh"


def test_counters_that_rules_watch_begin_at_zero(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    """PromQL's increase() does not count a series' first value."""
    told(metrics, tick_of(Observed((pod(0),))))
    for name in ("reversals_total", "reconcile_failures_total", "events_dropped_total"):
        assert read(registry, name) == 0, name


def test_labels_are_an_object_or_one_of_a_few_words(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    fill(metrics)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    used = {label for family in families for one in family.samples for label in one.labels}
    assert used - {"le", "version", *OBJECT} <= BOUNDED
    assert {family.name for family in families if not family.documentation} == set()


@pytest.mark.parametrize(
    ("method", "path", "kind", "words"),
    [
        ("GET", kube.pods("team-a"), "", "list pods"),
        ("GET", kube.pods(None), "", "list pods"),
        ("GET", kube.leases("ops", "headrace"), "", "get leases"),
        ("GET", kube.nodes(), "", "list nodes"),
        ("POST", kube.events("team-a"), "", "create events"),
        ("PUT", kube.leases("ops", "headrace"), "", "update leases"),
        ("PATCH", kube.pods("team-a", "chat-0"), APPLY, "apply pods"),
        ("PATCH", kube.objects("team-a", "chat", "status"), MERGE, "patch inferencedeployments/status"),
        ("DELETE", kube.revisions("team-a", "chat-1"), "", "delete controllerrevisions"),
    ],
)
def test_a_call_is_counted_as_a_role_would_name_it(method: str, path: str, kind: str, words: str) -> None:
    registry = CollectorRegistry()
    api_calls.count(OperatorMetrics(registry), Call(method, path, kind, 503, 0.25))
    verb, resource = words.split()
    labels = {"verb": verb, "resource": resource, "code": "503"}
    assert registry.get_sample_value("headrace_operator_api_requests_total", labels) == 1
    assert registry.get_sample_value("headrace_operator_api_request_seconds_sum", {"verb": verb}) == 0.25


async def test_prometheus_can_read_all_of_it_over_http(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    fill(metrics)
    runner = await serve("127.0.0.1", 0, registry, lambda: None, lambda: True)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    await runner.cleanup()
    names = [one.name for family in text_string_to_metric_families(text) for one in family.samples]
    assert "headrace_operator_desired_replicas" in names
    command = [str(debian.ensure(print).promtool), "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=text.encode(), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_backlog_is_told(registry: CollectorRegistry, metrics: OperatorMetrics) -> None:
    series.tell_backlog(metrics, Backlog(waiting=3, running=2, backing_off=1, oldest_seconds=4.5))
    depths = {state: registry.get_sample_value("headrace_operator_queue_depth", {"state": state})
              for state in ("waiting", "running", "backing_off")}  # fmt: skip
    assert depths == {"waiting": 3, "running": 2, "backing_off": 1}
    assert registry.get_sample_value("headrace_operator_queue_oldest_seconds") == 4.5


@pytest.mark.parametrize(
    ("error", "result"),
    [(InvalidSpec("spec.model", "x"), "invalid"), (Unavailable("x"), "unavailable"), (KeyError("x"), "failed")],
)
def test_a_failed_look_says_whose_fault_it_is(error: Exception, result: str) -> None:
    assert series.Result.of(error) == result


async def test_what_waits_for_a_look_is_counted_apart_from_what_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_DELAY", work_queue.LONGEST_DELAY)  # it still backs off when that is read
    asked: list[Key] = []

    async def work(key: Key) -> None:
        asked.append(key)
        if key[1] == "broken":
            raise ValueError(key)
        await asyncio.sleep(3600)

    async def failed(key: Key, error: Exception) -> None:
        del key, error

    queue = WorkQueue(work, failed)
    assert queue.backlog == Backlog(0, 0, 0, 0.0)
    for name in ("slow", "broken"):
        queue.mark(("default", name))
    while len(asked) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    marked_at = loop.time()
    queue.mark(("default", "slow"))
    await asyncio.sleep(0.01)
    backlog = queue.backlog
    assert (backlog.waiting, backlog.running, backlog.backing_off) == (1, 1, 1)
    assert 0.005 < backlog.oldest_seconds <= loop.time() - marked_at
    await queue.close()


@pytest.mark.parametrize(
    ("changes", "is_cut_off"),
    [
        pytest.param({"unrouted_at": NOW - 121, "running": 1}, True, id="the time is over, and a request runs"),
        pytest.param({"unrouted_at": NOW - 119, "running": 1}, False, id="there is time left"),
        pytest.param({"unrouted_at": NOW - 121, "running": 0}, False, id="it was just drained"),
    ],
)
def test_a_drain_that_was_cut_off_is_told_apart(changes: dict[str, Any], is_cut_off: bool) -> None:
    inside = sample(running=changes["running"])
    leaving_pod = pod(1, routable=False, unrouted_at=changes["unrouted_at"], sample=inside)
    seen = Observed((pod(0), leaving_pod))
    assert (leaving.cut_off(seen, 120.0, NOW) == {"uid-1"}) == is_cut_off
    deleted = [action.why for action in leaving.leave(seen, 120.0, NOW) if isinstance(action, DeletePod)]
    assert any("drain.timeout" in why for why in deleted) == is_cut_off


async def test_a_failed_scrape_says_why() -> None:
    over = asyncio.Event()

    async def refuses(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async def lies(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async def hangs(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    app = web.Application()
    app.add_routes([web.get(f"/{door.__name__}", door) for door in (refuses, lies, hangs)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    heard: list[Failure] = []
    answering = {name: f"{base}/{name}" for name in ("refuses", "lies")} | {"gone": "http://127.0.0.1:1/"}
    async with aiohttp.ClientSession() as session:
        for seconds, urls in ((300.0, answering), (0.1, {"hangs": f"{base}/hangs"})):
            scraper = Scraper(session, seconds, lambda: NOW, heard.append)
            await scraper.scrape(urls)
            await scraper.close()
    over.set()
    await runner.cleanup()
    assert sorted(heard) == sorted({Failure.STATUS, Failure.INVALID, Failure.TIMEOUT, Failure.REFUSED})
