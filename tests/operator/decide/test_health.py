from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.health import health
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.rules import Clamp
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import Mode
from observations import decided, observed, pod, scaling, signals

QUOTA = '403: pods "x" is forbidden: exceeded quota: gpus'


def told(seen: Observed, *others: PodState, **changes: Any) -> dict[str, tuple[bool | None, str, str]]:
    policy = scaling(**{"min_replicas": 1, **changes.pop("policy", {})})
    ready = len(seen.ready)
    decision = decided(ready, changes.pop("signals", signals(ready, load=1.0)), *others, policy=policy)
    found = health(seen, replace(decision, **changes))
    return {condition.type: (condition.status, str(condition.reason), condition.message) for condition in found}


def in_trouble(phase: PodPhase, **changes: Any) -> PodState:
    return pod(9, phase, **{"message": "words", "sample": None, **changes})


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([], (False, "AllWell", "none of 2 pods is in trouble"), id="all is well"),
        pytest.param([in_trouble(PodPhase.LOADING)], (False, "AllWell", "none of 3 pods is in trouble"), id="a start"),
        pytest.param(
            [in_trouble(PodPhase.CRASH_LOOPING)], (True, "CrashLooping", "1 of 3 pods; llama-9: words"), id="crash"
        ),
        pytest.param([in_trouble(PodPhase.UNREADY)], (True, "NotReady", "1 of 3 pods; llama-9: words"), id="not ready"),
        pytest.param(
            [in_trouble(PodPhase.DEVICE_MISMATCH, routable=False)],
            (True, "DeviceMismatch", "1 of 3 pods; llama-9: words"),
            id="wrong device",
        ),
        pytest.param(
            [in_trouble(PodPhase.IMAGE_PULL_FAILED, role=Role.STANDBY, routable=False)],
            (True, "ImagePullFailed", "1 of 3 pods; llama-9: words"),
            id="a standby counts",
        ),
        pytest.param(
            [in_trouble(PodPhase.UNREADY, routable=False)],
            (False, "AllWell", "none of 2 pods is in trouble"),
            id="what drains is not ready on purpose",
        ),
        pytest.param(
            [pod(9, loss_announced="node gpu-a is cordoned")],
            (True, "LossAnnounced", "1 of 3 pods; llama-9: node gpu-a is cordoned"),
            id="loss announced",
        ),
        pytest.param(
            [in_trouble(PodPhase.UNREADY), in_trouble(PodPhase.MODEL_REFUSED)],
            (True, "ModelRefused", "1 of 4 pods; llama-9: words"),
            id="the worst is told",
        ),
    ],
)
def test_degraded(others: list[PodState], expected: tuple[bool, str, str]) -> None:
    assert told(observed(2, *others))["Degraded"] == expected


@pytest.mark.parametrize(
    ("seen", "changes", "expected"),
    [
        pytest.param(observed(2), {}, (True, "ReadyForNewScale"), id="free to move"),
        pytest.param(
            observed(2),
            {"clamps": (Clamp(Reason.HOLDING_FOR_WINDOW, 1, 2),)},
            (True, "ScaleDownStabilized"),
            id="window",
        ),
        pytest.param(replace(observed(2), refused=QUOTA), {}, (False, "QuotaExceeded"), id="quota"),
    ],
)
def test_able_to_scale(seen: Observed, changes: dict[str, Any], expected: tuple[bool, str]) -> None:
    assert told(seen, **changes)["AbleToScale"][:2] == expected


def test_not_able_to_scale_while_pods_wait_for_a_gpu() -> None:
    full = pod(9, PodPhase.UNSCHEDULABLE, message="Insufficient nvidia.com/gpu")
    status, reason, message = told(observed(1, full), full)["AbleToScale"]
    assert (status, reason) == (False, "InsufficientGPU")
    assert "Insufficient nvidia.com/gpu" in message


@pytest.mark.parametrize(
    ("ready", "changes", "expected"),
    [
        pytest.param(2, {}, (True, "ValidMetricFound", "2 of 2 ready pods answered"), id="measured"),
        pytest.param(0, {}, (False, "NoneReady", "0 of 0 ready pods answered"), id="nobody to ask"),
        pytest.param(
            2,
            {"signals": signals(2, answered=0)},
            (False, "MetricsMissing", "0 of 2 ready pods answered"),
            id="silence",
        ),
        pytest.param(
            2, {"policy": {"mode": Mode.PAUSED}}, (False, "Paused", "spec.autoscaling.mode is Paused"), id="paused"
        ),
        pytest.param(
            2,
            {"policy": {"mode": Mode.EXTERNAL, "replicas": 2}},
            (True, "External", "spec.replicas decides, within the bounds"),
            id="external",
        ),
        pytest.param(
            2,
            {"policy": {"mode": Mode.EXTERNAL}},
            (
                False,
                "External",
                "mode External has no spec.replicas yet, and an HPA needs a first one: "
                "`kubectl scale infdep/NAME --replicas=N`",
            ),
            id="external, and nobody has said a number",
        ),
    ],
)
def test_scaling_active(ready: int, changes: dict[str, Any], expected: tuple[bool, str, str]) -> None:
    assert told(observed(ready), **changes)["ScalingActive"] == expected
