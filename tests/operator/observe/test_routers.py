"""Routers' pods and their metrics, as the operator reads them."""

from typing import Any

import pytest
from headrace_operator.decide.values import RouterSample, RouterState
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe import routers


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
    found = routers.states([pod("b"), pod("a", leaving=True)], {"uid-a": told, "uid-b": None})
    assert found == (RouterState("a", False, told), RouterState("b", True, None))


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
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_cannot_be_is_unknown_and_not_zero(text: str, why: str) -> None:
    with pytest.raises(ScrapeFailed, match=why):
        routers.sample(text, 0.0)
