"""A new revision: rolled out on a full cluster, promoted after its trial, taken back when it is worse."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cluster import LocalCluster
from demo import story
from demo.users import Habit, converse_during
from deployments import Body, condition, manifest, operator_process, pods, status, upgrade, wait_ready

pytestmark = pytest.mark.e2e
SHORT = Habit(story.PROMPTS, max_new_tokens=16)
NEVER_MISSED = {"queueWaitP95": "60s"}  # within it no revision is refused for a wait
GOLDEN = [  # which the smaller model thinks less likely
    {"prompt": "And God said, Let there be light:", "answer": " and there was light."},
    {"prompt": "Blessed are the meek:", "answer": " for they shall inherit the earth."},
]
Apply = Callable[..., str]


@pytest.fixture
def apply(cluster: LocalCluster, deploy: Apply) -> Apply:
    """Like `deploy`, for a whole spec: the autoscaling of two replicas, and what a test says."""
    name = deploy(minReplicas=2, maxReplicas=2)

    def changed(*, path: str = "scripture-5m", replicas: int = 2, **spec: Any) -> str:
        autoscaling = {"minReplicas": replicas, "maxReplicas": replicas, "targets": NEVER_MISSED}
        cluster.apply(manifest(name, path=path, autoscaling=autoscaling, **spec))
        return name

    return changed


def canary(**policy: Any) -> Body:
    """A trial that ends as soon as it can, on a machine whose speed is anybody's guess."""
    usual = {"minSamples": 20, "minDuration": "5s", "deadline": "900s", "limits": {"tokensPerSecond": "1%"}}
    return {"strategy": "Canary", "canary": usual | policy}


def rollout(cluster: LocalCluster, name: str) -> Body:
    found: Body = status(cluster, name).get("rollout", {})
    return found


def wait_state(cluster: LocalCluster, name: str, state: str, updated: str | None = None) -> Body:
    """The rollout once it is in a state; `updated`: and not about this revision any more."""

    def reached() -> Body | None:
        now = rollout(cluster, name)
        return now if now.get("state") == state and now.get("updatedRevision") != updated else None

    found: Body = cluster.wait(f"{name} is in state {state}", reached)
    return found


def of_revision(cluster: LocalCluster, name: str, revision: str) -> list[Body]:
    """Routed pods of one revision."""
    labels = {"headrace.dev/revision": revision, "headrace.dev/routable": "true"}
    return [pod for pod in pods(cluster, name) if labels.items() <= pod["metadata"]["labels"].items()]


def test_an_upgraded_operator_touches_no_pod(cluster: LocalCluster, apply: Apply) -> None:
    name = apply()
    wait_ready(cluster, name, 2)
    before = {pod["metadata"]["uid"]: pod["spec"]["containers"][0]["image"] for pod in pods(cluster, name)}

    upgrade(cluster, "--set", "server.image.tag=9.9.9")
    try:
        apply(replicas=3)  # the upgraded operator is at work, and makes the third like the first two
        wait_ready(cluster, name, 3)
        after = {pod["metadata"]["uid"]: pod["spec"]["containers"][0]["image"] for pod in pods(cluster, name)}
        assert before.items() <= after.items()
        assert set(after.values()) == set(before.values())
    finally:
        upgrade(cluster)


def test_a_good_canary_is_promoted_and_no_request_fails(cluster: LocalCluster, apply: Apply) -> None:
    """Although the operator is killed in the middle of the trial: another one continues it."""
    name = apply(rollout=canary())
    wait_ready(cluster, name, 2)
    stable = wait_state(cluster, name, "Baseline")["stableRevision"]

    def edit() -> None:
        apply(rollout=canary(minDuration="800s"), batching={"maxRunning": 3})  # no look takes as long
        trial = wait_state(cluster, name, "Trial")
        assert trial["stableRevision"] == stable
        operator_process(cluster).kill()
        apply(rollout=canary(), batching={"maxRunning": 3})
        ended = wait_state(cluster, name, "Baseline", updated=stable)
        assert ended["startedAt"] == trial["startedAt"]

    answers = asyncio.run(converse_during(story.doors(cluster, name), 4, edit, SHORT))
    assert answers.sent > 0
    assert dict(answers.failures) == {}
    ended = rollout(cluster, name)
    assert ended["reason"] == "AllGatesPassed"
    assert ended["evidence"]["canary"]["requests"] >= 16  # told at the last notable growth
    assert of_revision(cluster, name, stable) == []
    assert {pod["metadata"]["labels"]["headrace.dev/role"] for pod in pods(cluster, name)} == {"replica"}
    assert condition(cluster, name, "Progressing")["reason"] == "RolloutComplete"
    assert "CanaryPromoted" in cluster.kubectl("describe", "infdep", name)


def test_a_canary_that_answers_worse_is_taken_back_with_the_evidence(cluster: LocalCluster, apply: Apply) -> None:
    """A model a fifth of the size, which thinks the golden answers less likely."""
    policy = canary(golden=GOLDEN, minSamples=100_000)
    name = apply(rollout=policy)
    wait_ready(cluster, name, 2)
    stable = wait_state(cluster, name, "Baseline")["stableRevision"]
    before = {pod["metadata"]["uid"] for pod in pods(cluster, name)}
    apply(path="scripture-1m", rollout=policy)
    back = wait_state(cluster, name, "RolledBack")
    assert (back["reason"], back["stableRevision"]) == ("QualityWorse", stable)
    scores = back["evidence"]["golden"]
    assert [score["prompt"] for score in scores] == [golden["prompt"] for golden in GOLDEN]
    assert sum(float(score["stable"]) - float(score["canary"]) for score in scores) / len(scores) > 0.05
    said = condition(cluster, name, "Progressing")
    assert (said["status"], said["reason"]) == ("False", "CanaryRolledBack")
    assert "nats a token" in said["message"]
    cluster.wait("the canary is gone", lambda: {p["metadata"]["uid"] for p in pods(cluster, name)} == before)
    apply(rollout=policy)  # back to the old template
    assert wait_state(cluster, name, "Baseline")["updatedRevision"] == stable
    assert {pod["metadata"]["uid"] for pod in pods(cluster, name)} == before


def test_on_a_full_cluster_a_canary_takes_the_place_of_a_replica_and_gives_it_back(
    cluster: LocalCluster, apply: Apply
) -> None:
    name = apply(replicas=4, rollout=canary())  # as many as the nodes have GPUs
    wait_ready(cluster, name, 4)
    stable = wait_state(cluster, name, "Baseline")["stableRevision"]
    apply(path="nowhere", replicas=4, rollout=canary())
    cluster.wait(
        "the full cluster is said",
        lambda: condition(cluster, name, "Progressing")["reason"] == "SurgeImpossible",
    )
    back = wait_state(cluster, name, "RolledBack")
    assert back["reason"] == "CanaryFailed"
    assert "ModelRefused" in back["message"]
    cluster.wait("four old replicas", lambda: len(of_revision(cluster, name, stable)) == 4)
    wait_ready(cluster, name, 4)


def test_a_broken_revision_gives_its_place_back_and_what_is_lost_is_replaced_by_what_served(
    cluster: LocalCluster, apply: Apply
) -> None:
    """On a full cluster, with strategy Rolling."""
    name = apply(replicas=4)
    wait_ready(cluster, name, 4)
    stable = wait_state(cluster, name, "Baseline")["stableRevision"]
    apply(path="nowhere", replicas=4, rollout={"progressDeadline": "20s"})
    cluster.wait("the new pod has a place", lambda: len(of_revision(cluster, name, stable)) == 3)
    lost = of_revision(cluster, name, stable)[0]["metadata"]
    cluster.kubectl("delete", "pod", lost["name"], "--wait=false", "--grace-period=1")
    cluster.wait(
        "what was lost is replaced",
        lambda: len({pod["metadata"]["uid"] for pod in of_revision(cluster, name, stable)} - {lost["uid"]}) == 3,
    )
    cluster.wait(
        "the deadline",
        lambda: condition(cluster, name, "Progressing")["reason"] == "ProgressDeadlineExceeded",
    )
    said = condition(cluster, name, "Progressing")
    assert said["status"] == "False"
    assert "ModelRefused" in said["message"]
    assert "change the pod template" in said["message"]
    cluster.wait("four old replicas", lambda: len(of_revision(cluster, name, stable)) == 4)
    wait_ready(cluster, name, 4)
    assert {pod["metadata"]["labels"]["headrace.dev/revision"] for pod in pods(cluster, name)} == {stable}
    assert "RolloutStalled" in cluster.kubectl("describe", "infdep", name)


def test_on_a_full_cluster_replicas_are_replaced_one_by_one(cluster: LocalCluster, apply: Apply) -> None:
    name = apply(replicas=4)
    wait_ready(cluster, name, 4)
    stable = wait_state(cluster, name, "Baseline")["stableRevision"]
    apply(replicas=4, batching={"maxRunning": 3})
    reasons, ready = set(), []

    def is_complete() -> bool:
        reasons.add(condition(cluster, name, "Progressing")["reason"])
        ready.append(status(cluster, name)["readyReplicas"])
        now = rollout(cluster, name)
        return bool(now["state"] == "Baseline" and now["stableRevision"] != stable)

    cluster.wait("all replicas are new", is_complete)
    assert "SurgeImpossible" in reasons
    assert min(ready) >= 3
    wait_ready(cluster, name, 4)
