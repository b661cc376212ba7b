"""The node agent's pure parts: environment, mount paths, pod status, back-off, routing."""

from typing import Any

import pytest
from cluster.node.backoff import FIRST, GOOD_RUN, LONGEST, Backoff
from cluster.node.environment import Facts, command_line, expand, field, relocate, variables
from cluster.node.pod import repository
from cluster.node.proxy import backends
from cluster.node.status import Addresses, ContainerState, pod_status
from hypothesis import given
from hypothesis import strategies as st

Body = dict[str, Any]
NOW, EARLIER = "2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"
POD: Body = {
    "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "labels": {"app": "web"}},
    "spec": {"serviceAccountName": "robot", "containers": [{"name": "c"}]},
}
FACTS = Facts(POD, "node-a", "127.1.1.2", "127.1.1.1", {("configMap", "settings"): {"MODE": "fast"}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$(A)/$(B)", "1/2"), ("$(C)", "$(C)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("", "")],
)
def test_variables_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/models/a", "/tmp/x/models/a", id="at the start"),
        pytest.param("--model=/models/a", "--model=/tmp/x/models/a", id="after ="),
        pytest.param("a:/models,b:/tmp", "a:/tmp/x/models,b:/tmp/x/tmp", id="in a list, and never twice"),
        pytest.param("/models", "/tmp/x/models", id="the mount itself"),
        pytest.param("/modelsx/a", "/modelsx/a", id="another folder that begins alike"),
        pytest.param("see/models/a", "see/models/a", id="not the beginning of a path"),
        pytest.param("/models/deep/a", "/tmp/x/deep/a", id="the longest mount wins"),
    ],
)
def test_mount_paths_are_replaced_where_a_path_begins(text: str, expected: str) -> None:
    mounts = {"/models": "/tmp/x/models", "/tmp": "/tmp/x/tmp", "/models/deep": "/tmp/x/deep"}
    assert relocate(text, mounts) == expected


@given(st.text(max_size=30))
def test_without_mounts_nothing_changes(text: str) -> None:
    assert relocate(text, {}) == text


def test_the_environment_is_made_in_order_from_all_its_sources() -> None:
    container = {
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "X_"}],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "http://$(IP):80/$(LATER)"},
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "MODE"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
            {"name": "LATER", "value": "late"},
        ],
    }
    found = variables(container, FACTS)
    assert found == {
        "X_MODE": "fast",
        "IP": "127.1.1.2",
        "URL": "http://127.1.1.2:80/$(LATER)",
        "MODE": "fast",
        "LATER": "late",
    }


def test_a_missing_key_is_named() -> None:
    entry = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "OTHER"}}}
    with pytest.raises(LookupError, match="settings has no key OTHER"):
        variables({"name": "c", "env": [entry]}, FACTS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"), ("metadata.labels['app']", "web"), ("metadata.annotations['x']", ""),
        ("spec.serviceAccountName", "robot"), ("status.hostIP", "127.1.1.1"), ("spec.nodeName", "node-a"),
    ],
)  # fmt: skip
def test_fields_of_the_downward_api(path: str, value: str) -> None:
    assert field(path, FACTS) == value


def test_a_container_without_command_is_refused() -> None:
    with pytest.raises(LookupError, match="no command"):
        command_line({"name": "c", "args": ["x"]}, {}, {})


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("web", "web"), ("web:1.2", "web"), ("a.b/c/web:1", "a.b/c/web"), ("host:5000/web", "host:5000/web"),
        ("host:5000/web:1@sha256:aa", "host:5000/web"),
    ],
)  # fmt: skip
def test_an_image_without_its_tag(image: str, name: str) -> None:
    assert repository(image) == name


def a_container(
    *, code: int | None = None, is_running: bool = False, is_ready: bool = False, is_final: bool = False
) -> ContainerState:
    state = ContainerState("c", "image", ready=is_ready, is_final=is_final)
    if is_running or code is not None:
        state.waiting = None
    if is_running:
        state.running = {"startedAt": EARLIER}
    if code is not None:
        state.terminated = {"exitCode": code}
    return state


def truths(status: Body) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in status["conditions"]}


@pytest.mark.parametrize(
    ("initial", "main", "phase", "ready"),
    [
        pytest.param([], [a_container()], "Pending", "False", id="nothing runs"),
        pytest.param([], [a_container(is_running=True)], "Running", "False", id="running, not ready"),
        pytest.param([], [a_container(is_running=True, is_ready=True)], "Running", "True", id="ready"),
        pytest.param([a_container(is_running=True)], [a_container()], "Pending", "False", id="initialising"),
        pytest.param(
            [a_container(code=0)], [a_container(is_running=True, is_ready=True)], "Running", "True", id="initialised"
        ),
        pytest.param([], [a_container(code=0, is_final=True)], "Succeeded", "False", id="done"),
        pytest.param(
            [],
            [a_container(code=0, is_final=True), a_container(code=3, is_final=True)],
            "Failed",
            "False",
            id="one failed",
        ),
    ],
)
def test_phase_and_readiness(initial: list[ContainerState], main: list[ContainerState], phase: str, ready: str) -> None:
    status = pod_status(POD, initial, main, Addresses("127.1.1.2", "127.1.1.1"), NOW)
    assert (status["phase"], truths(status)["Ready"]) == (phase, ready)
    assert status["podIP"] == "127.1.1.2"


def test_readiness_gates_hold_a_pod_back() -> None:
    spec = {**POD["spec"], "readinessGates": [{"conditionType": "warm"}]}
    main = [a_container(is_running=True, is_ready=True)]
    for warm, ready in (("False", "False"), ("True", "True")):
        gate = {"type": "warm", "status": warm, "lastTransitionTime": EARLIER}
        status = pod_status({**POD, "spec": spec, "status": {"conditions": [gate]}}, [], main, None, NOW)
        assert truths(status) == {"warm": warm, "Initialized": "True", "ContainersReady": "True", "Ready": ready}


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    before = {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": EARLIER} for kind in ("Initialized", "Ready")
        ]
    }
    status = pod_status({**POD, "status": before}, [], [a_container(is_running=True)], None, NOW)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in status["conditions"]}
    assert (times["Initialized"], times["Ready"]) == (EARLIER, NOW)


def test_the_first_restart_is_immediate_and_the_others_wait_longer_and_longer() -> None:
    backoff, delays = Backoff(), []
    for _ in range(8):
        backoff = backoff.after_run(0.1)
        delays.append(backoff.delay)
    assert delays[:4] == [0.0, FIRST, FIRST * 2, FIRST * 4]
    assert delays[-1] == LONGEST
    assert backoff.after_run(GOOD_RUN).delay == 0.0


def a_backend(address: str, *, is_ready: bool = True, **metadata: Any) -> Body:
    return {
        "metadata": {"name": address, "namespace": "ns", "labels": {"app": "web"}, **metadata},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(is_ready)}]},
    }


@pytest.mark.parametrize(("target", "port"), [("http", 8000), (9000, 9000)])
def test_a_service_reaches_ready_pods_of_its_selector_only(target: str | int, port: int) -> None:
    service = {"metadata": {"namespace": "ns"}, "spec": {"selector": {"app": "web"}}}
    pods = [
        a_backend("127.1.1.3"),
        a_backend("127.1.1.2"),
        a_backend("127.1.1.4", is_ready=False),
        a_backend("127.1.1.5", deletionTimestamp=NOW),
        a_backend("127.1.1.6", labels={"app": "other"}),
        a_backend("127.1.1.7", namespace="elsewhere"),
    ]
    assert backends(service, {"port": 80, "targetPort": target}, pods) == [("127.1.1.2", port), ("127.1.1.3", port)]


def test_a_port_name_that_no_container_has_reaches_nobody() -> None:
    service = {"metadata": {"namespace": "ns"}, "spec": {"selector": {"app": "web"}}}
    assert backends(service, {"port": 80, "targetPort": "grpc"}, [a_backend("127.1.1.2")]) == []
