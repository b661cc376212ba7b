"""Pod objects as Kubernetes writes them, and what each of them means."""

from typing import Any

import pytest
from headrace_operator.decide.values import PodPhase
from headrace_operator.observe.pods import metrics_urls, observed, state

Body = dict[str, Any]
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}
NOT_READY = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:10Z"}
FULL = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes: Insufficient nvidia.com/gpu",
}


def a_pod(*, conditions: list[Body] | None = None, container: Body | None = None, **metadata: Any) -> Body:
    labels = {
        "headrace.dev/deployment": "chat",
        "headrace.dev/routable": "true",
        "headrace.dev/revision": "abc",
        "headrace.dev/ordinal": "3",
    }
    return {
        "metadata": {
            "name": "chat-abc-3", "uid": "u3", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels,
            **metadata,
        },
        "status": {
            "podIP": "127.1.1.2",
            "conditions": conditions or [NOT_READY],
            "containerStatuses": [container] if container else [],
        },
    }  # fmt: skip


def ended(code: int, message: str = "") -> Body:
    return {"terminated": {"exitCode": code, "message": message}}


def waiting(reason: str, message: str = "") -> Body:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("pod", "phase", "message"),
    [
        pytest.param(a_pod(conditions=[READY]), PodPhase.READY, "", id="ready"),
        pytest.param(a_pod(), PodPhase.STARTING, "", id="loading"),
        pytest.param(a_pod(conditions=[FULL]), PodPhase.UNSCHEDULABLE, "Insufficient nvidia", id="full cluster"),
        pytest.param(
            a_pod(container={"state": waiting("ImagePullBackOff", "no such image")}),
            PodPhase.IMAGE_PULL_FAILED, "no such image", id="image",
        ),
        pytest.param(
            a_pod(container={"state": waiting("CrashLoopBackOff"), "lastState": ended(139, "segfault")}),
            PodPhase.CRASH_LOOPING, "segfault", id="crash loop",
        ),
        pytest.param(
            a_pod(container={"state": waiting("CrashLoopBackOff"), "lastState": ended(78, "no safetensors")}),
            PodPhase.MODEL_REFUSED, "no safetensors", id="model refused, waiting to try again",
        ),
        pytest.param(
            a_pod(container={"state": ended(78, "no safetensors")}),
            PodPhase.MODEL_REFUSED, "no safetensors", id="model refused just now",
        ),
        pytest.param(
            a_pod(conditions=[READY], deletionTimestamp="2026-01-01T00:01:00Z"), PodPhase.TERMINATING, "",
            id="terminating",
        ),
    ],
)  # fmt: skip
def test_what_a_pod_is_doing(pod: Body, phase: PodPhase, message: str) -> None:
    seen = state(pod, None)
    assert seen.phase is phase
    assert message in seen.message


def test_times_and_labels_become_values() -> None:
    pod = a_pod(conditions=[READY], annotations={"headrace.dev/unrouted-at": "1767225650.5"})
    pod["metadata"]["labels"]["headrace.dev/routable"] = "false"
    seen = state(pod, None)
    assert (seen.ordinal, seen.revision, seen.uid) == (3, "abc", "u3")
    assert seen.ready_at is not None
    assert seen.ready_at - seen.created_at == 30
    assert (seen.routable, seen.unrouted_at) == (False, 1767225650.5)


def test_only_ready_pods_are_asked_for_metrics() -> None:
    assert metrics_urls([a_pod(conditions=[READY]), a_pod(uid="u4")]) == {"u3": "http://127.1.1.2:8000/metrics"}


def test_pods_stand_in_the_order_of_their_ordinals() -> None:
    second = a_pod(uid="u0", name="chat-abc-0")
    second["metadata"]["labels"] = {**second["metadata"]["labels"], "headrace.dev/ordinal": "0"}
    assert [pod.ordinal for pod in observed([a_pod(), second], {}).pods] == [0, 3]
