"""Pod objects as Kubernetes writes them, and what each of them means."""

from datetime import datetime
from typing import Any

import pytest
from headrace_operator.decide.values import PodPhase, Role
from headrace_operator.observe.pods import Around, metrics_urls, observed, state
from headrace_operator.observe.server_facts import ServerFacts
from observations import sample

Body = dict[str, Any]
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}
LOST_READY = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:40Z"}
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
            PodPhase.IMAGE_PULL_FAILED,
            "no such image",
            id="image",
        ),
        pytest.param(
            a_pod(container={"state": waiting("CrashLoopBackOff"), "lastState": ended(139, "segfault")}),
            PodPhase.CRASH_LOOPING,
            "segfault",
            id="crash loop",
        ),
        pytest.param(
            a_pod(container={"state": waiting("CrashLoopBackOff"), "lastState": ended(78, "no safetensors")}),
            PodPhase.MODEL_REFUSED,
            "no safetensors",
            id="model refused, waiting to try again",
        ),
        pytest.param(
            a_pod(container={"state": ended(78, "no safetensors")}),
            PodPhase.MODEL_REFUSED,
            "no safetensors",
            id="model refused just now",
        ),
        pytest.param(
            a_pod(conditions=[READY], deletionTimestamp="2026-01-01T00:01:00Z"),
            PodPhase.TERMINATING,
            "",
            id="terminating",
        ),
    ],
)
def test_what_a_pod_is_doing(pod: Body, phase: PodPhase, message: str) -> None:
    seen = state(pod, Around())
    assert seen.phase is phase
    assert message in seen.message


def test_times_and_labels_become_values() -> None:
    pod = a_pod(conditions=[READY], annotations={"headrace.dev/unrouted-at": "1767225650.5"})
    pod["metadata"]["labels"]["headrace.dev/routable"] = "false"
    seen = state(pod, Around())
    assert (seen.ordinal, seen.revision, seen.uid) == (3, "abc", "u3")
    assert seen.ready_at is not None
    assert seen.ready_at - seen.created_at == 30
    assert (seen.routable, seen.unrouted_at) == (False, 1767225650.5)


SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:02Z"}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:10Z"}}
STARTED_AT = datetime.fromisoformat("2026-01-01T00:00:10Z").timestamp()


def starting(container: Body | None = None) -> Body:
    return a_pod(conditions=[NOT_READY, SCHEDULED], container=container)


def again(code: int = 1, restarts: int = 2, **container: Any) -> Body:
    return {"state": RUNNING, "lastState": ended(code, "segfault"), "restartCount": restarts, **container}


@pytest.mark.parametrize(
    ("pod", "facts", "phase"),
    [
        pytest.param(a_pod(), ServerFacts(), PodPhase.STARTING, id="not scheduled yet"),
        pytest.param(starting(), ServerFacts(), PodPhase.PULLING, id="the node has not said anything yet"),
        pytest.param(
            starting({"state": waiting("ContainerCreating")}), ServerFacts(), PodPhase.PULLING, id="the image comes"
        ),
        pytest.param(
            starting({"state": RUNNING}), ServerFacts(), PodPhase.LOADING, id="the server does not listen yet"
        ),
        pytest.param(
            starting({"state": RUNNING}),
            ServerFacts(weights_at=STARTED_AT + 5),
            PodPhase.WARMING_UP,
            id="weights there",
        ),
        pytest.param(
            starting({"state": RUNNING}),
            ServerFacts(weights_at=STARTED_AT - 5),
            PodPhase.LOADING,
            id="what the process before said is void",
        ),
        pytest.param(
            starting({"state": RUNNING, "started": True}),
            ServerFacts(weights_at=STARTED_AT + 5),
            PodPhase.WARMING_UP,
            id="its startup probe has passed, and its readiness probe not yet",
        ),
        pytest.param(
            a_pod(conditions=[LOST_READY, SCHEDULED], container={"state": RUNNING, "started": True}),
            ServerFacts(weights_at=STARTED_AT + 5),
            PodPhase.UNREADY,
            id="it has served before",
        ),
        pytest.param(starting(again()), ServerFacts(), PodPhase.CRASH_LOOPING, id="it runs until the next crash"),
        pytest.param(
            starting(again(started=True)), ServerFacts(), PodPhase.LOADING, id="it runs well since the crashes"
        ),
        pytest.param(starting(again(restarts=1)), ServerFacts(), PodPhase.LOADING, id="one crash is no loop"),
        pytest.param(starting(again(code=0)), ServerFacts(), PodPhase.LOADING, id="it was told to end"),
    ],
)
def test_how_far_a_start_is(pod: Body, facts: ServerFacts, phase: PodPhase) -> None:
    assert state(pod, Around(facts={"u3": facts})).phase is phase


@pytest.mark.parametrize(
    ("args", "device", "phase"),
    [
        pytest.param(["serve", "--device=cuda"], "cuda", PodPhase.READY, id="as asked"),
        pytest.param(["serve", "--device=cuda"], "cpu", PodPhase.DEVICE_MISMATCH, id="it computes on the CPU"),
        pytest.param(["serve", "--device=cuda"], None, PodPhase.READY, id="unknown is no mismatch"),
        pytest.param(["serve"], "cpu", PodPhase.READY, id="an image that takes no device"),
    ],
)
def test_a_ready_pod_on_the_wrong_device_is_told_apart(args: list[str], device: str | None, phase: PodPhase) -> None:
    pod = {
        **a_pod(conditions=[READY, SCHEDULED], container={"state": RUNNING}),
        "spec": {"containers": [{"args": args}]},
    }
    seen = state(pod, Around(facts={"u3": ServerFacts(STARTED_AT + 5, STARTED_AT + 9, device)}))
    assert seen.phase is phase
    if phase is PodPhase.DEVICE_MISMATCH:
        assert seen.message == "computes on cpu, spec.model.device is cuda"


def test_every_step_of_a_start_is_timed() -> None:
    pod = a_pod(conditions=[READY, SCHEDULED], container={"state": RUNNING, "restartCount": 1})
    seen = state(pod, Around(facts={"u3": ServerFacts(STARTED_AT + 5.5, STARTED_AT + 9.5)}))
    steps = seen.startup
    assert steps.scheduled_at == seen.created_at + 2
    assert (steps.pulled_at, steps.weights_at, steps.warmed_at) == (STARTED_AT, STARTED_AT + 5.5, STARTED_AT + 9.5)
    assert seen.restarts == 1


def test_the_numbers_of_a_server_count_once_it_serves() -> None:
    samples = {"u3": sample()}
    assert state(a_pod(conditions=[READY]), Around(samples)).sample is not None
    assert state(starting({"state": RUNNING}), Around(samples)).sample is None


def test_a_standby_is_known_by_its_label_and_an_old_pod_without_one_is_a_replica() -> None:
    pod = a_pod(conditions=[READY])
    assert state(pod, Around()).role is Role.REPLICA
    pod["metadata"]["labels"]["headrace.dev/role"] = "standby"
    assert state(pod, Around()).role is Role.STANDBY


def test_pods_whose_server_runs_are_asked_also_before_they_are_ready() -> None:
    asked = metrics_urls([a_pod(conditions=[READY]), a_pod(uid="u4", container={"state": RUNNING}), a_pod(uid="u5")])
    assert asked == {"u3": "http://127.1.1.2:8000/metrics", "u4": "http://127.1.1.2:8000/metrics"}


def test_a_pod_is_asked_on_the_admin_port_if_it_has_one() -> None:
    newer = a_pod(conditions=[READY])
    ports = [{"name": "http", "containerPort": 8000}, {"name": "admin", "containerPort": 9191}]
    newer["spec"] = {"containers": [{"name": "server", "ports": ports}]}
    assert metrics_urls([newer]) == {"u3": "http://127.1.1.2:9191/metrics"}
    assert state(newer, Around()).admin_port == 9191
    assert state(a_pod(conditions=[READY]), Around()).admin_port == 8000  # made by an operator before there was one


def test_pods_stand_in_the_order_of_their_ordinals() -> None:
    second = a_pod(uid="u0", name="chat-abc-0")
    second["metadata"]["labels"] = {**second["metadata"]["labels"], "headrace.dev/ordinal": "0"}
    assert [pod.ordinal for pod in observed([a_pod(), second], Around()).pods] == [0, 3]
