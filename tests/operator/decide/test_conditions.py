from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.conditions import as_status, conditions, timestamp
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.values import PodPhase, PodState
from observations import NOW, decided, deployment, observed, pod, scaling, signals

REFUSED = "/models/llama: model.safetensors is missing; convert the checkpoint with `save_pretrained`"


def told(*others: PodState, ready: int = 0, least: int = 2, **policy: Any) -> dict[str, tuple[str, str, str]]:
    """Of each condition: status, reason, message."""
    rules = scaling(min_replicas=least, **policy)
    seen = observed(ready, *others)
    decision = decided(ready, signals(ready, load=1.0), *others, policy=rules)
    found = as_status(conditions(deployment(scaling=rules), seen, decision), [], 3, NOW)
    return {entry["type"]: (entry["status"], entry["reason"], entry["message"]) for entry in found}


def failing(phase: PodPhase, message: str) -> PodState:
    return pod(9, phase, message=message, sample=None)


@pytest.mark.parametrize(
    ("others", "ready", "kind", "expected", "says"),
    [
        pytest.param([], 2, "Ready", ("True", "EnoughReady"), "2 of at least 2", id="enough are ready"),
        pytest.param([], 1, "Ready", ("False", "TooFewReady"), "1 of at least 2", id="one was lost"),
        pytest.param([failing(PodPhase.STARTING, "")], 1, "Ready", ("False", "Starting"), "1 of", id="one starts"),
        pytest.param(
            [failing(PodPhase.CRASH_LOOPING, "exit status 1")],
            0,
            "Ready",
            ("False", "CrashLooping"),
            "exit status 1",
            id="one crashes",
        ),
        pytest.param(
            [failing(PodPhase.IMAGE_PULL_FAILED, "not found")],
            0,
            "Ready",
            ("False", "ImagePullFailed"),
            "not found",
            id="no such image",
        ),
        pytest.param(
            [failing(PodPhase.MODEL_REFUSED, REFUSED)],
            0,
            "ModelValid",
            ("False", "ModelRefused"),
            REFUSED,
            id="the server's own words tell the remedy",
        ),
        pytest.param(
            [failing(PodPhase.MODEL_REFUSED, REFUSED)],
            2,
            "Ready",
            ("True", "EnoughReady"),
            "",
            id="a bad new revision leaves the old one serving",
        ),
        pytest.param([], 2, "ModelValid", ("True", "ModelLoaded"), "2 replicas", id="the model loads"),
        pytest.param([], 0, "ModelValid", ("Unknown", "ModelNotTried"), "", id="nobody tried the model"),
        pytest.param(
            [pod(9, sample=None)], 1, "MetricsAvailable", ("False", "MetricsMissing"), "1 of 2", id="one pod is silent"
        ),
        pytest.param([], 2, "MetricsAvailable", ("True", "AllAnswer"), "2 of 2", id="every pod answers"),
        pytest.param([], 0, "MetricsAvailable", ("Unknown", "NoneReady"), "0 of 0", id="there is nobody to ask"),
        pytest.param(
            [failing(PodPhase.UNSCHEDULABLE, "Insufficient nvidia.com/gpu")],
            2,
            "GPUCapacity",
            ("False", "InsufficientGPU"),
            "1 pods wait: Insufficient nvidia.com/gpu",
            id="the scheduler finds no room",
        ),
        pytest.param([], 2, "GPUCapacity", ("True", "Scheduled"), "", id="every pod has its place"),
        pytest.param([], 2, "ScalingLimited", ("False", "WithinBounds"), "", id="nothing holds the number back"),
    ],
)
def test_conditions(others: list[PodState], ready: int, kind: str, expected: tuple[str, str], says: str) -> None:
    found = told(*others, ready=ready)[kind]
    assert found[:2] == expected
    assert says in found[2]


def test_a_bound_that_holds_the_number_back_says_by_how_much() -> None:
    rules = scaling(max_replicas=4)
    decision = decided(4, signals(4, load=2.0), policy=rules)
    (limited,) = (
        condition
        for condition in conditions(deployment(scaling=rules), observed(4), decision)
        if condition.type == "ScalingLimited"
    )
    assert (limited.status, limited.reason) == (True, Reason.AT_MAXIMUM)
    assert "are wanted, 4 are allowed" in limited.message


def test_the_time_of_a_transition_moves_only_with_the_status() -> None:
    rules = deployment(scaling=scaling(min_replicas=2))
    decision = decided(2, signals(2, load=1.0), policy=rules.scaling)
    first = as_status(conditions(rules, observed(2), decision), [], 3, NOW)
    later = as_status(conditions(rules, observed(1), decision), first, 4, NOW + 60)
    by_type = {entry["type"]: entry for entry in later}
    assert by_type["Ready"]["lastTransitionTime"] == timestamp(NOW + 60)
    assert by_type["GPUCapacity"]["lastTransitionTime"] == timestamp(NOW)
    assert {entry["observedGeneration"] for entry in later} == {4}


def test_a_timestamp_is_what_kubernetes_reads() -> None:
    assert timestamp(0.9) == "1970-01-01T00:00:00Z"


def test_a_long_message_fits() -> None:
    words = told(failing(PodPhase.CRASH_LOOPING, "x" * 5000))
    assert len(words["Ready"][2]) <= 1024


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        pytest.param(None, ("True", "Scheduled"), id="no budget"),
        pytest.param(2, ("True", "Scheduled"), id="room for both"),
        pytest.param(1, ("False", "OverBudget"), id="room for one of two"),
    ],
)
def test_a_standby_that_the_budget_does_not_allow_is_said(room: int | None, expected: tuple[str, str]) -> None:
    asked, seen = deployment(scaling=scaling(warm_standby=2)), replace(observed(1), standby_room=room)
    found = conditions(asked, seen, decided(1, signals(1, load=1.0)))
    (told_,) = (entry for entry in as_status(found, [], 3, NOW) if entry["type"] == "GPUCapacity")
    assert (told_["status"], told_["reason"]) == expected
    assert ("has room for 1" in told_["message"]) is (room == 1)
