"""Pods of one revision, as many as were decided: who is created, and who leaves first."""

from headrace_operator.decide import manifests
from headrace_operator.decide.actions import Action, CreatePod, DeletePod, Unroute
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision
from headrace_operator.service import InferenceDeployment


def size(deployment: InferenceDeployment, revision: Revision, observed: Observed, decision: Decision) -> list[Action]:
    live = observed.live
    missing = decision.replicas - len(live)
    if missing >= 0:
        return create(deployment, revision, observed, missing)
    return [remove(pod, decision.reason) for pod in sorted(live, key=victim_order)[:-missing]]


def create(deployment: InferenceDeployment, revision: Revision, observed: Observed, number: int) -> list[Action]:
    """The lowest free ordinals: names are deterministic, so that a stale leader collides instead of adding."""
    taken = {pod.ordinal for pod in observed.pods}
    free = [ordinal for ordinal in range(len(taken) + number) if ordinal not in taken][:number]
    return [CreatePod(manifests.pod(deployment, revision, ordinal)) for ordinal in free]


def remove(pod: PodState, why: str) -> Action:
    if pod.is_ready:
        return Unroute(pod.name, pod.uid, why)
    return DeletePod(pod.name, pod.uid, why)


def victim_order(pod: PodState) -> tuple[bool, bool, int, float]:
    """First to go: what waits for a GPU, what is not ready, what carries least, what is youngest."""
    carries = pod.sample.running + pod.sample.waiting if pod.sample else 0
    return pod.phase is not PodPhase.UNSCHEDULABLE, pod.is_ready, carries, -pod.created_at
