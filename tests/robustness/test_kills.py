"""kill -9 before and after every write of the operator: what it left behind is found, finished, and never doubled.

Each life of the operator ends at one write more than the life before, until one life reaches the goal alive. The goals
of a story follow each other: pods come, more pods come, pods of another revision replace them, pods go; a canary is
tried and taken back, and then insisted on; a standby loads, and becomes a replica while another one loads.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from cluster import LocalCluster
from deployments import Body, pods, status
from fault_proxy import Call, FaultProxy
from kubelet_free import manifest
from operator_process import OperatorProcess

pytestmark = pytest.mark.cluster
NAME = "killed"
MOST_LIVES = 100  # a slow machine's operator tells of more looks on the way to a goal


@dataclass(slots=True)
class Death:
    """SIGKILL at the operator's `index`-th write, before or after the API server hears of it."""

    operator: OperatorProcess
    index: int
    is_done: bool
    writes: int = 0

    def before(self, call: Call) -> bool:
        self.writes += not call.is_election
        is_last = self.writes == self.index and not self.is_done
        if is_last:
            self.operator.send(signal.SIGKILL)
        return not is_last

    def after(self, call: Call, status: int) -> None:
        if self.writes == self.index and self.is_done and not call.is_election:
            self.operator.send(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    body: Body
    replicas: int
    most: int  # pods that serve or will, at any time on the way: one more than needed while one replaces another
    standby: int = 0
    state: str = "Baseline"  # of the rollout


def stands_by(replicas: int) -> Body:
    bounds = {"minReplicas": replicas, "maxReplicas": replicas, "warmStandby": 1}
    return manifest(NAME, autoscaling=bounds)


OTHER = {"batching": {"maxRunning": 3}}
# Nobody asks these pods for anything, so that a trial ends at its deadline.
CANARY = {"strategy": "Canary", "canary": {"minDuration": "1s", "deadline": "4s"}}
TWO = Goal("created", manifest(NAME, replicas=2), 2, 2)
STORIES = {
    "replicas": (
        TWO,
        Goal("grown", manifest(NAME, replicas=3), 3, 3),
        Goal("rolled", manifest(NAME, replicas=3, **OTHER), 3, 4),
        Goal("shrunk", manifest(NAME, replicas=1, **OTHER), 1, 4),
    ),
    "a canary": (
        Goal("tried and taken back", manifest(NAME, replicas=2, rollout=CANARY, **OTHER), 2, 3, state="RolledBack"),
        Goal("insisted on", manifest(NAME, replicas=2, **OTHER), 2, 3),
    ),
    "a standby": (
        Goal("stands by", stands_by(2), 2, 2, standby=1),
        Goal("promoted", stands_by(3), 3, 3, standby=1),
    ),
}


@pytest.fixture
def gone_afterwards(cluster: LocalCluster) -> Iterator[None]:
    yield
    cluster.kubectl("delete", "infdep", NAME, "--ignore-not-found")
    cluster.wait("nothing is left", lambda: not pods(cluster, NAME))


@pytest.mark.usefixtures("gone_afterwards")
@pytest.mark.parametrize("story", STORIES)
def test_killed_at_every_write(
    cluster: LocalCluster, proxy: FaultProxy, start: Callable[..., OperatorProcess], story: str
) -> None:
    operator = start(proxy, interval=0.2)
    if story != "replicas":
        cluster.apply(TWO.body)
        cluster.wait("two replicas to begin with", lambda: is_reached(cluster, TWO))
    for goal in STORIES[story]:
        cluster.apply(goal.body)
        lives = 0
        for index in range(1, MOST_LIVES):
            for is_done in (False, True):
                lives += 1
                reached = live(cluster, proxy, operator, Death(operator, index, is_done), goal)
            if reached:
                break
        assert reached, f"{goal.name}: not reached in {lives} lives\n{operator.log()[-3000:]}"
        print(f"{goal.name}: {lives} lives")
        operator.kill()


def live(cluster: LocalCluster, proxy: FaultProxy, operator: OperatorProcess, death: Death, goal: Goal) -> bool:
    """One life: until it is killed, or has reached the goal."""
    operator.kill()
    proxy.switches.before, proxy.switches.after = death.before, death.after
    operator.start()

    def is_over() -> bool:
        assert_sound(cluster, goal)
        return not operator.is_running or is_reached(cluster, goal)

    cluster.wait(f"the end of life {death.index}, {goal.name}", is_over)
    return operator.is_running


def assert_sound(cluster: LocalCluster, goal: Goal) -> None:
    """At every moment: no pod without an owner, no place taken twice, never more pods than the goal allows."""
    owner = cluster.object("infdep", NAME)["metadata"]["uid"]
    found = pods(cluster, NAME)
    assert all([ref["uid"] for ref in pod["metadata"]["ownerReferences"]] == [owner] for pod in found)
    ordinals = [pod["metadata"]["labels"]["headrace.dev/ordinal"] for pod in found]
    assert len(set(ordinals)) == len(ordinals), ordinals
    serving = [pod["metadata"]["name"] for pod in found if is_serving(pod)]
    assert len(serving) <= goal.most, serving


def is_reached(cluster: LocalCluster, goal: Goal) -> bool:
    now, found = status(cluster, NAME), pods(cluster, NAME)
    revisions = {pod["metadata"]["labels"]["headrace.dev/revision"] for pod in found}
    generation = cluster.object("infdep", NAME)["metadata"]["generation"]
    if now.get("observedGeneration") != generation:
        return False
    rollout = now["rollout"]
    serving = rollout["stableRevision"] if goal.state == "RolledBack" else now["revision"]
    return (
        now["readyReplicas"] == now["replicas"] == goal.replicas
        and now["warmReplicas"] == goal.standby == len(found) - goal.replicas
        and rollout["state"] == goal.state
        and revisions == {serving}
    )


def is_serving(pod: Body) -> bool:
    metadata = pod["metadata"]
    return metadata["labels"]["headrace.dev/routable"] == "true" and "deletionTimestamp" not in metadata
