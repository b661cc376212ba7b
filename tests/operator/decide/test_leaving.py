from dataclasses import replace

import pytest
from headrace_operator.decide.actions import Action, DeletePod, Drain
from headrace_operator.decide.leaving import ROUTE_SETTLE, SILENT, leave
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState, Role
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, pod, sample

TIMEOUT = 120.0
ADDRESS = "127.1.1.2"
BUSY = sample(drained=False, running=3)


def unrouted(seconds: float, seen: PodSample | None = BUSY, phase: PodPhase = PodPhase.UNREADY) -> PodState:
    return pod(1, phase, routable=False, unrouted_at=NOW - seconds, sample=seen, address=ADDRESS)


def planned(*pods: PodState) -> list[Action]:
    return leave(Observed(pods), TIMEOUT, NOW)


@pytest.mark.parametrize("seen", [BUSY, sample(drained=True), None])
def test_nothing_happens_before_the_routers_know(seen: PodSample | None) -> None:
    assert planned(unrouted(ROUTE_SETTLE - 0.1, seen, PodPhase.READY)) == []


@pytest.mark.parametrize("phase", [PodPhase.READY, PodPhase.UNREADY, PodPhase.DEVICE_MISMATCH])
def test_what_is_busy_is_told_to_drain_again_and_again(phase: PodPhase) -> None:
    for seconds in (ROUTE_SETTLE, TIMEOUT - 1):
        seen = pod(
            1, phase, routable=False, unrouted_at=NOW - seconds, sample=BUSY, address=ADDRESS, ready_at=None,
            role=Role.REPLICA,
        )  # fmt: skip
        expected = [] if phase is PodPhase.DEVICE_MISMATCH else [Drain("llama-1", "uid-1", ADDRESS)]
        assert planned(seen) == expected  # one on the wrong device is kept, not drained


@pytest.mark.parametrize(
    ("leaving", "why"),
    [
        pytest.param(unrouted(30, sample(drained=True)), "drained: no request is inside", id="the server says so"),
        pytest.param(unrouted(30, sample()), "drained: no request is inside", id="a server that cannot say, idle"),
        pytest.param(
            unrouted(TIMEOUT, sample(drained=False, running=2, waiting=1)),
            "drain.timeout of 120 s has passed with 3 requests inside",
            id="the timeout",
        ),
        pytest.param(
            unrouted(TIMEOUT, None),
            "drain.timeout of 120 s has passed with an unknown number of requests inside",
            id="the timeout, and silence",
        ),
        pytest.param(
            unrouted(SILENT, None),
            "answers nothing 10 s after it left the Service; SIGTERM drains it",
            id="no answer at all",
        ),
        pytest.param(unrouted(5, None, PodPhase.LOADING), "serves nobody", id="its container was started again"),
        pytest.param(unrouted(5, None, PodPhase.CRASH_LOOPING), "serves nobody", id="it crashes"),
    ],
)
def test_what_is_done_is_deleted(leaving: PodState, why: str) -> None:
    assert planned(leaving) == [DeletePod("llama-1", "uid-1", why)]


def test_a_sample_from_before_the_routers_knew_proves_nothing() -> None:
    stale = sample(at=NOW - 10 + ROUTE_SETTLE - 0.1, drained=True)
    assert planned(unrouted(10, stale)) == [Drain("llama-1", "uid-1", ADDRESS)]


def test_a_server_that_cannot_say_and_is_busy_goes_on() -> None:
    assert planned(unrouted(10, sample(running=1))) == [Drain("llama-1", "uid-1", ADDRESS)]


def test_a_pod_of_an_older_operator_is_told_where_it_listens() -> None:
    old = replace(unrouted(10, sample(running=1)), admin_port=8000)
    assert planned(old) == [Drain("llama-1", "uid-1", ADDRESS, 8000)]


def test_a_pod_that_somebody_else_unrouted_is_drained_as_well() -> None:
    by_hand = pod(1, routable=False, sample=sample(drained=True), address=ADDRESS)
    assert planned(by_hand) == [DeletePod("llama-1", "uid-1", "drained: no request is inside")]


def test_standby_is_no_drain() -> None:
    assert planned(pod(1, role=Role.STANDBY, routable=False, sample=sample(drained=True))) == []


def test_what_stops_already_is_left_to_it_and_what_is_lost_is_cleared_away() -> None:
    assert planned(pod(1, PodPhase.TERMINATING, routable=False, unrouted_at=NOW - 60)) == []
    assert planned(pod(1, PodPhase.LOST, message="evicted")) == [DeletePod("llama-1", "uid-1", "lost: evicted")]


@given(st.floats(0, TIMEOUT - 0.01), st.integers(0, 9), st.integers(0, 9), st.sampled_from([None, False]))
def test_no_pod_with_requests_inside_is_deleted_before_its_time(
    seconds: float, running: int, waiting: int, drained: bool | None
) -> None:
    busy = sample(running=running, waiting=waiting, drained=drained)
    is_busy = drained is False or running + waiting > 0
    deleted = [action for action in planned(unrouted(seconds, busy)) if isinstance(action, DeletePod)]
    assert not (is_busy and deleted)
