"""Who is given requests, who hears copies, and who gets nothing, from what the API server says of pods."""

from typing import Any

import pytest
from headrace_router.observe.pods import found
from headrace_router.values import Ports


def pod(uid: str, ready: bool = True, leaving: bool = False, **labels: str) -> dict[str, Any]:
    about: dict[str, Any] = {"uid": uid, "name": uid, "labels": {f"headrace.dev/{k}": v for k, v in labels.items()}}
    if leaving:
        about["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    named = [{"name": "grpc", "containerPort": 7001}, {"name": "http", "containerPort": 7002}]
    return {
        "metadata": about,
        "spec": {"containers": [{"ports": named}]},
        "status": {"podIP": "127.0.0.9", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


@pytest.mark.parametrize(
    ("one", "serves", "mirrors"),
    [
        pytest.param(pod("a", routable="true"), True, False, id="a replica"),
        pytest.param(pod("a", routable="true", ready=False), False, False, id="not ready"),
        pytest.param(pod("a", routable="true", leaving=True), False, False, id="leaving"),
        pytest.param(pod("a", routable="false"), False, False, id="warm standby, or draining"),
        pytest.param(pod("a"), False, False, id="never routed"),
        pytest.param(pod("a", role="shadow"), False, True, id="a shadow"),
        pytest.param(pod("a", role="shadow", routable="true"), False, True, id="a shadow is never asked itself"),
        pytest.param(pod("a", role="shadow", ready=False), False, False, id="a shadow that is not ready"),
    ],
)
def test_who_gets_what(one: dict[str, Any], serves: bool, mirrors: bool) -> None:
    seen = found({"a": one})
    assert (bool(seen.serving), bool(seen.mirrors)) == (serves, mirrors)


def test_an_endpoint_is_its_pod() -> None:
    (one,) = found({"a": pod("a", routable="true", revision="b7a902b8")}).serving
    assert (one.uid, one.address, one.revision) == ("a", "127.0.0.9", "b7a902b8")
    assert one.ports == Ports(7001, 7002, 7002)
