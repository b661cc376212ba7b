"""What `minReplicas: 0` costs and saves: the operator's own decision behind routers that hold requests."""

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from headrace_operator.cli import main
from headrace_operator.routing_fields import Hold
from headrace_operator.service import Scaling
from headrace_operator.simulate import arguments
from headrace_operator.simulate.command import compared
from headrace_operator.simulate.comparison import Comparison, run, simulated
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.faults import Faults
from headrace_operator.simulate.outcome import AtRouters, outcome
from headrace_operator.simulate.routers import Routers
from headrace_operator.simulate.traces import Request
from hypothesis import given, settings
from hypothesis import strategies as st

COLD, LOOK, IDLE = 60.0, 2.0, 300.0  # seconds
# Every start takes as long as it is told; a request of 10 + 5 tokens takes a tenth of a second.
ENGINE = Engine(overhead=0.02, seconds_per_token=1e-4, slots=4, phase_spread=0.0)
SCALING = Scaling(0, 4, queue_wait_target=0.5, utilization=0.7, scale_down_window=60.0, idle_timeout=IDLE)
NOTHING = AtRouters(0, 0, 0.0, 0.0, 0.0, 0.0, 0)


def comparison(*at: float, hold: Hold | None = None, number: int = 1, **changes: Any) -> Comparison:
    """Of requests that come at these seconds."""
    usual = Comparison(
        [Request(moment, 10, 5) for moment in sorted(at)], SCALING, engine=ENGINE, cold_start=COLD, interval=LOOK,
        routing="router", routers=Routers(number, hold or Hold()),
    )  # fmt: skip
    return replace(usual, **changes)


def at_routers(given: Comparison, name: str = "headrace") -> AtRouters:
    met = run(given, name).outcome.at_routers
    assert met is not None
    return met


few = settings(deadline=None, max_examples=25)  # each is half an hour of looks
arrivals = st.lists(st.floats(0.0, 1800.0), min_size=1, max_size=40)
holds = st.builds(Hold, st.integers(0, 12), st.sampled_from([0.0, 20.0, 61.0, 300.0]))


@few
@given(arrivals, holds, st.integers(1, 3))
def test_every_request_is_answered_or_refused(at: list[float], hold: Hold, number: int) -> None:
    given = comparison(*at, hold=hold, number=number)
    world = simulated(given, "headrace")
    assert sorted([*(came for came, _ in world.waits), *world.refused]) == sorted(at)
    met = outcome(world, given.slo, 0.0, given.end).at_routers
    assert met is not None
    assert met.refused == len(world.refused)
    assert met.held <= len(at)
    assert 0 <= met.held_p50 <= met.held_p95 <= met.held_longest <= hold.timeout + 1e-6


@few
@given(arrivals)
def test_nobody_meets_a_cold_start_where_a_replica_is_kept(at: list[float]) -> None:
    for name in ("headrace-one", "kpa", "static:1"):
        assert at_routers(comparison(*at), name) == NOTHING


@few
@given(arrivals)
def test_going_to_zero_never_takes_more_than_one_replica_does_but_for_its_starts(at: list[float]) -> None:
    """Here no load needs a second one."""
    given = comparison(*at, engine=replace(ENGINE, slots=64))
    to_zero, kept = run(given, "headrace").outcome, run(given, "headrace-one").outcome
    assert to_zero.replica_hours <= kept.replica_hours + 1e-9


def test_nobody_asks_and_nothing_is_held() -> None:
    given = comparison(7200.0)
    assert run(given, "headrace").outcome.replica_hours == 0
    assert run(given, "headrace-one").outcome.replica_hours == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        pytest.param(100.0, COLD, id="at a look"),
        pytest.param(100.5, COLD + 1.5, id="the next look sees it"),
    ],
)
def test_the_first_request_waits_for_a_look_and_a_start(at: float, seconds: float) -> None:
    done = run(comparison(at), "headrace").outcome
    met = done.at_routers
    assert met is not None
    assert (met.from_zero, met.held, met.held_share, met.refused) == (1, 1, 1.0, 0)
    assert (met.held_p50, met.held_p95, met.held_longest) == pytest.approx((seconds,) * 3)
    assert done.wait_p99 == pytest.approx(seconds)
    assert done.slo_miss_share == 1.0


def test_the_last_replica_leaves_after_the_idle_time() -> None:
    """Three starts, each for one request; the last request only ends the trace."""
    done = run(comparison(100.0, 2000.0, 4000.0, 6000.0), "headrace").outcome
    each = COLD + IDLE
    assert done.at_routers is not None
    assert (done.at_routers.from_zero, done.at_routers.held) == (4, 4)
    assert done.replica_hours * 3600 == pytest.approx(3 * each, abs=3 * 2 * LOOK)


def test_who_comes_within_the_idle_time_meets_a_warm_replica() -> None:
    often = [100.0 + 250.0 * index for index in range(12)]
    met = at_routers(comparison(*often))
    assert met.held == 1
    assert at_routers(comparison(*often, scaling=replace(SCALING, idle_timeout=100.0))).held == 12


@pytest.mark.parametrize(
    ("number", "requests", "refused"),
    [
        pytest.param(1, 3, 7, id="beyond what one router holds"),
        pytest.param(1, 10, 0, id="as many as it holds"),
        pytest.param(1, 0, 10, id="it holds nobody, so that nobody starts a replica"),
        pytest.param(20, 10, 0, id="many routers"),
    ],
)
def test_a_router_holds_so_many(number: int, requests: int, refused: int) -> None:
    burst = [100.0 + 0.1 * index for index in range(10)]
    met = at_routers(comparison(*burst, hold=Hold(requests), number=number))
    assert (met.refused, met.held) == (refused, 10 - refused)


def test_each_router_has_room_of_its_own() -> None:
    burst = [100.0 + 0.01 * index for index in range(200)]
    assert at_routers(comparison(*burst, hold=Hold(50), number=2)).refused == 100
    assert at_routers(comparison(*burst, hold=Hold(50), number=1)).refused == 150


def test_who_is_held_for_too_long_is_refused_and_counts_as_missed() -> None:
    done = run(comparison(100.0, 101.0, hold=Hold(timeout=20.0)), "headrace").outcome
    assert done.at_routers is not None
    assert (done.at_routers.refused, done.at_routers.held, done.at_routers.held_longest) == (2, 2, pytest.approx(20.0))
    assert done.slo_miss_share == 1.0


def test_those_who_are_held_go_on_as_fast_as_replicas_take_them() -> None:
    """Twice the batch of four at once, and everybody at last."""
    world = simulated(comparison(*[100.0 + 0.01 * index for index in range(60)]), "headrace")
    at_once = [seconds for came, seconds in world.holds if came + seconds == pytest.approx(160.0)]
    assert len(at_once) == 8
    assert len(world.waits) == 60


def test_many_that_are_held_bring_several_replicas_once_it_is_known_what_one_carries() -> None:
    """The first burst teaches it; the next one comes after the replicas have left."""
    slow = replace(ENGINE, overhead=0.5)
    burst = [0.05 * index for index in range(200)]
    given = comparison(*(100.0 + at for at in burst), *(8000.0 + at for at in burst), engine=slow)
    wanted = {moment.at: moment.desired for moment in run(given, "headrace").moments}
    assert wanted[7990.0] == 0
    assert wanted[108.0] == 1
    assert wanted[8008.0] > 1


def test_a_silent_router_may_hold_a_request_so_the_last_replica_stays() -> None:
    silent = comparison(1.0, 3601.0, start=1, faults=Faults(outages=((0.0, math.inf),)))
    heard = replace(silent, faults=Faults())
    assert run(silent, "headrace").outcome.replica_hours == pytest.approx(3601 / 3600)
    assert run(heard, "headrace").outcome.replica_hours == pytest.approx(IDLE / 3600, abs=3 * LOOK / 3600)


@pytest.mark.parametrize(
    ("faults", "seconds"),
    [
        pytest.param(Faults(outages=((0.0, 200.0),)), 100.0 + COLD, id="at the end of the outage"),
        pytest.param(Faults(metrics_delay=10.0), 10.0 + COLD, id="as late as routers answer"),
    ],
)
def test_a_start_begins_when_a_router_is_heard(faults: Faults, seconds: float) -> None:
    assert at_routers(comparison(100.0, faults=faults)).held_longest == pytest.approx(seconds)


@few
@given(arrivals, st.integers(1, 3), st.integers(0, 5))
def test_the_same_seed_gives_the_same_outcome(at: list[float], number: int, seed: int) -> None:
    given = comparison(*at, number=number, seed=seed, faults=Faults(metrics_loss=0.1))
    assert run(given, "headrace") == run(given, "headrace")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"{at},200,20" for at in (0, 1, 2, 2000, 2001, 6000)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    return path


FROM_ZERO = ("--policy", "headrace", "--min-replicas", "0", "--lead-in", "0s")


def test_one_replica_is_kept_beside_it(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", str(trace), *FROM_ZERO, "--hold-requests", "500", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    to_zero, kept = told["rows"]
    assert (to_zero["name"], kept["name"]) == ("headrace", "headrace-one")
    assert (to_zero["held_requests"], to_zero["held_share"], to_zero["refused_requests"]) == (6, 1.0, 0)
    assert to_zero["starts_from_zero"] == 3
    assert 30 < to_zero["held_p50_s"] <= to_zero["held_p95_s"] <= to_zero["held_max_s"] < 300
    assert to_zero["replica_hours"] < kept["replica_hours"] == pytest.approx(6000 / 3600, abs=0.01)
    assert (kept["held_requests"], kept["starts_from_zero"]) == (0, 0)
    work = told["work"]
    assert (work["routers"], work["hold_requests"], work["hold_seconds"]) == (2, 500, 300.0)
    assert (work["routing"], work["idle_timeout_seconds"]) == ("router", 600.0)


def test_the_table_says_what_it_saves(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", str(trace), *FROM_ZERO, "--idle-timeout", "1m"]) == 0
    policies, routers = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in policies.splitlines()] == ["POLICY", "headrace", "headrace-one"]
    assert routers.splitlines()[0].split("  ")[0] == "AT THE ROUTERS"
    assert float(routers.splitlines()[1].split()[-1]) == pytest.approx(1.58, abs=0.03)  # of 1.67 h


def test_without_routers_nothing_is_told_of_them(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", str(trace), "--policy", "headrace", "--min-replicas", "1"]) == 0
    assert "ROUTERS" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hold-requests", "5"], "--hold-requests is for routers; give --routers or --min-replicas 0, too"),
        (["--hold-timeout", "5m"], "--hold-timeout is for routers"),
        (["--idle-timeout", "5m"], "--idle-timeout is for the last replica's leave; give --min-replicas 0, too"),
        (["--min-replicas", "0", "--idle-timeout", "0s"], "--idle-timeout must be longer than 0s"),
        (["--routers", "21"], "--routers must be at most 20, not 21"),
        (["--routers", "2", "--hold-timeout", "2h"], "--hold-timeout must be at most 1h, not 7200s"),
        (["--routers", "2", "--hold-requests", "1000001"], "--hold-requests must be at most 1000000, not 1000001"),
    ],
)
def test_what_does_not_fit_is_refused(
    trace: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--trace", str(trace), "--policy", "headrace", *words]) == 2
    assert told in capsys.readouterr().err


def body(*, autoscaling: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """As the API server hands it out: with every default filled in."""
    bounds = {"minReplicas": 0, "maxReplicas": 16, "scaleDownWindow": "5m", "mode": "Auto", "idleTimeout": "15m"}
    defaults: dict[str, Any] = {
        "model": {"source": "pvc://models/llama/8b", "task": "generate", "dtype": "bfloat16", "device": "cuda"},
        "resources": {"gpus": 1},
        "autoscaling": {
            **bounds, "targets": {"queueWaitP95": "500ms", "utilization": "70%"}, **(autoscaling or {})
        },
        "batching": {"maxRunning": 64, "maxTokensPerStep": 2048, "maxWaiting": 1024},
        "drain": {"timeout": "2m"},
    }  # fmt: skip
    return {"metadata": {"namespace": "default", "name": "llama", "uid": "u1"}, "spec": {**defaults, **spec}}


@dataclass(frozen=True, slots=True)
class Told:
    """Of the object and the options, what the comparison has."""

    least: int
    idle: float
    routers: Routers | None
    routing: str


OWN = {"routing": {"mode": "Headrace"}}
KEPT = {"autoscaling": {"minReplicas": 1}}


@pytest.mark.parametrize(
    ("changes", "words", "wanted"),
    [
        pytest.param(OWN, [], Told(0, 900.0, Routers(2, Hold(1000, 300.0)), "router"), id="of the object"),
        pytest.param(
            {"routing": {"mode": "Headrace", "replicas": 3, "hold": {"requests": 7, "timeout": "20s"}}},
            ["--hold-timeout", "40s", "--idle-timeout", "5m", "--routing", "least"],
            Told(0, 300.0, Routers(3, Hold(7, 40.0)), "least"),
            id="an option instead",
        ),
        pytest.param(
            {"routing": {"modelRouters": ["default/chat"]}},
            [],
            Told(0, 900.0, Routers(), "router"),
            id="held by the routers of several models",
        ),
        pytest.param(
            OWN, ["--min-replicas", "1"], Told(1, 900.0, Routers(), "router"), id="never at zero, behind its routers"
        ),
        pytest.param(KEPT, [], Told(1, 900.0, None, "two-choices"), id="behind a Service"),
        pytest.param(KEPT, ["--min-replicas", "0"], Told(0, 900.0, Routers(), "router"), id="what if it had routers"),
    ],
)
def test_an_object_says_what_its_routers_hold(
    trace: Path, changes: dict[str, Any], words: list[str], wanted: Told
) -> None:
    parser = argparse.ArgumentParser()
    arguments.simulate(parser)
    found = compared(parser.parse_args(["--trace", str(trace), *words]), body(**changes))
    bounds = found.scaling
    assert Told(bounds.min_replicas, bounds.idle_timeout, found.routers, found.routing) == wanted
