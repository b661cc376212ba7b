"""A new revision is tried on copies of the requests: whatever it does, no client notices, until it takes over."""

import asyncio
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cluster import LocalCluster
from demo import story
from demo.users import Habit, converse_during
from deployments import Body, condition, manifest, pods, status, wait_ready

pytestmark = pytest.mark.e2e
NAME = "overheard"
SHORT = Habit(story.PROMPTS, max_new_tokens=8)
# Seconds that a trial lasts at least. No look at the pods takes as long as the second.
SOON, AFTER_WE_HAVE_LOOKED = "1s", "800s"


@pytest.fixture
def apply(cluster: LocalCluster) -> Iterator[Callable[..., None]]:
    def changed(*, path: str = "scripture-5m", trial: str = SOON, **spec: Any) -> None:
        """Two replicas behind one router, whose new revisions are tried on copies."""
        limits = {"queueWaitP95": "1000%", "tokensPerSecond": "1%"}  # a machine's speed is anybody's guess
        policy = {"minSamples": 10, "minDuration": trial, "deadline": "900s", "limits": limits}
        asked = {"minReplicas": 2, "maxReplicas": 2, "targets": {"queueWaitP95": "60s"}}
        routed = {"mode": "Headrace", "replicas": 1}
        rollout = {"strategy": "Shadow", "canary": policy}
        cluster.apply(manifest(NAME, path=path, autoscaling=asked, routing=routed, rollout=rollout, **spec))

    yield changed
    cluster.kubectl("delete", "infdep", NAME, "--ignore-not-found")
    cluster.wait(f"pods of {NAME} gone", lambda: not pods(cluster, NAME))


def rollout(cluster: LocalCluster, state: str, updated: str) -> Body:
    """Of the revision that is asked for now, not of `updated`, once it is in a state. Raises LookupError before."""
    found: Body = status(cluster, NAME)["rollout"]
    if found["state"] != state or found["updatedRevision"] == updated:
        raise LookupError(f"{found['state']} of {found['updatedRevision']}: {found['message']}")
    return found


def shadows(cluster: LocalCluster) -> list[Body]:
    return [pod for pod in pods(cluster, NAME) if pod["metadata"]["labels"]["headrace.dev/role"] == "shadow"]


def is_routed(cluster: LocalCluster, pod: Body) -> bool:
    """Does the replicas' Service select it?"""
    wanted = cluster.object("service", NAME)["spec"]["selector"]
    return bool(wanted.items() <= pod["metadata"]["labels"].items())


def finished_requests(pod: Body) -> float:
    """By the server's own count. Raises OSError while it does not listen."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("headrace_requests_finished_total{"))


def test_copies_decide_and_no_client_hears_of_it(cluster: LocalCluster, apply: Callable[..., None]) -> None:
    apply()
    wait_ready(cluster, NAME, 2)
    cluster.wait("the router serves", lambda: condition(cluster, NAME, "RoutingReady")["status"] == "True")
    first = cluster.wait("it is settled", lambda: rollout(cluster, "Baseline", updated=""))["stableRevision"]
    before = {pod["metadata"]["uid"] for pod in pods(cluster, NAME)}

    def steps() -> None:
        apply(path="nowhere")
        back = cluster.wait("a broken revision is taken back", lambda: rollout(cluster, "RolledBack", updated=first))
        assert (back["reason"], back["strategy"]) == ("ShadowFailed", "Shadow")
        assert "ModelRefused" in back["message"]
        assert condition(cluster, NAME, "Progressing")["reason"] == "ShadowRolledBack"
        cluster.wait("its pod is gone", lambda: {p["metadata"]["uid"] for p in pods(cluster, NAME)} == before)

        apply(batching={"maxRunning": 3}, trial=AFTER_WE_HAVE_LOOKED)
        cluster.wait("a trial", lambda: rollout(cluster, "Trial", updated=back["updatedRevision"]))
        shadow = cluster.wait("a shadow pod hears copies", one_that_hears)
        apply(batching={"maxRunning": 3})
        ended = cluster.wait("it takes over", lambda: rollout(cluster, "Baseline", updated=back["updatedRevision"]))
        assert (ended["reason"], ended["stableRevision"] != first) == ("AllGatesPassed", True)
        assert ended["evidence"]["canary"]["requests"] >= 8  # told at the last notable growth
        serving = {pod["metadata"]["uid"] for pod in pods(cluster, NAME) if is_routed(cluster, pod)}
        assert shadow["metadata"]["uid"] in serving, "it was loaded"

    def one_that_hears() -> Body:
        """Raises LookupError before."""
        told = status(cluster, NAME)
        for pod in shadows(cluster):  # still, after that was read
            assert told["replicas"] == 2
            assert not is_routed(cluster, pod)
            if finished_requests(pod) > 0:
                assert told["routing"]["mirror"] == {"share": "50%"}
                return pod
        raise LookupError("no shadow pod has answered a copy yet")

    routed = replace(story.doors(cluster, f"{NAME}-router"), model=NAME)
    answers = asyncio.run(converse_during(routed, 4, steps, SHORT))
    assert answers.sent > 0
    assert dict(answers.failures) == {}
    assert shadows(cluster) == []
    assert "mirror" not in status(cluster, NAME).get("routing", {})
    told = cluster.kubectl("describe", "infdep", NAME)
    assert all(event in told for event in ("ShadowStarted", "ShadowRolledBack", "ShadowPromoted"))
