"""Routers' pods and their metrics, as the operator reads them."""

from typing import Any

import pytest
from headrace_operator.decide.values import RouterSample, RouterState
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe import routers
from headrace_operator.observe.routers import RouterReading
from headrace_operator.routing_fields import ModelRouters


def pod(name: str, *, ready: bool = True, leaving: bool = False) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "labels": {"headrace.dev/router": "chat"}}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": metadata | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {}),
        "status": {"podIP": "127.0.0.9", "conditions": conditions},
    }


def test_ready_routers_are_asked_on_their_admin_port() -> None:
    assert routers.metrics_urls([pod("a"), pod("b", ready=False)]) == {"uid-a": "http://127.0.0.9:9090/metrics"}


def test_one_that_leaves_still_says_what_it_holds_and_counts_as_no_router() -> None:
    told = RouterSample(3, 1.5)
    found = routers.states([pod("b"), pod("a", leaving=True)], {"uid-a": RouterReading(told, {}), "uid-b": None})
    assert found == (RouterState("a", False, told), RouterState("b", True, None))


def test_model_routers_count_with_what_they_hold_for_the_deployment() -> None:
    chat, other = ModelRouters("team-a", "chat"), ModelRouters("team-b", "chat")
    mine, all_of_it = RouterSample(3, 1.5), RouterSample(9, 60.0)
    readings = {
        "uid-a": RouterReading(all_of_it, {"default/llama": mine, "default/huge": RouterSample(6, 60.0)}),
        "uid-b": None,
        "uid-c": RouterReading(all_of_it, {"default/huge": all_of_it}),
    }
    found = routers.states_of_groups("default/llama", {chat: [pod("b"), pod("a")], other: [pod("c")]}, readings)
    assert found == (
        RouterState("a", True, mine, group="team-a/chat"),
        RouterState("b", True, None, group="team-a/chat"),
        RouterState("c", False, None, "its config has no model with deployment default/llama", "team-b/chat"),
    )


def test_a_deployment_that_is_two_models_of_a_router_waits_as_both() -> None:
    lines = [
        "headrace_router_held_requests 5.0", "headrace_router_oldest_held_seconds 7.0",
        'headrace_router_model_held_requests{deployment="a/b",model="x"} 2.0',
        'headrace_router_model_oldest_held_seconds{deployment="a/b",model="x"} 1.0',
        'headrace_router_model_held_requests{deployment="a/b",model="y"} 3.0',
        'headrace_router_model_oldest_held_seconds{deployment="a/b",model="y"} 7.0',
    ]  # fmt: skip
    assert routers.reading("\n".join(lines)).deployments == {"a/b": RouterSample(5, 7.0)}


def test_a_router_of_an_older_version_tells_its_own_operator_enough() -> None:
    told = routers.reading("headrace_router_held_requests 1\nheadrace_router_oldest_held_seconds 2")
    assert told == RouterReading(RouterSample(1, 2.0), {})


def test_one_that_does_not_get_ready_says_why() -> None:
    ended = {"terminated": {"exitCode": 2, "message": "--replica-ca: there is no such file"}}
    container = {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
    body = pod("a", ready=False)
    body["status"]["containerStatuses"] = [container]
    (found,) = routers.states([body], {})
    assert "--replica-ca: there is no such file" in found.message
    body = pod("b", ready=False)
    why = "0/2 nodes are available: 2 Insufficient cpu."
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    body["status"]["conditions"].append(full)
    assert why in routers.states([body], {})[0].message


BAD = [
    pytest.param("", "series missing: headrace_router_held_requests", id="empty"),
    pytest.param(
        "headrace_router_held_requests many\nheadrace_router_oldest_held_seconds 0", "no Prometheus", id="text"
    ),
    pytest.param("headrace_router_held_requests -1\nheadrace_router_oldest_held_seconds 0", "-1", id="negative"),
    pytest.param("headrace_router_held_requests NaN\nheadrace_router_oldest_held_seconds 0", "nan", id="not a number"),
    pytest.param("headrace_router_held_requests 1e300\nheadrace_router_oldest_held_seconds 0", "1e", id="beyond all"),
    pytest.param(
        "headrace_router_held_requests 1\nheadrace_router_oldest_held_seconds 0\n"
        'headrace_router_model_held_requests{deployment="a/b",model="x"} -2',
        "model_held_requests.* is -2",
        id="negative, of a model",
    ),
    pytest.param(
        "headrace_router_held_requests 1\nheadrace_router_oldest_held_seconds 0\n"
        'headrace_router_model_held_requests{deployment="a/b",model="x"} 1',
        "name other deployments",
        id="half of a model",
    ),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_cannot_be_is_unknown_and_not_zero(text: str, why: str) -> None:
    with pytest.raises(ScrapeFailed, match=why):
        routers.reading(text)
