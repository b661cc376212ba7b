"""Canary pods beside the replicas: who is created, who leaves, and how many replicas the stable revision keeps."""

from dataclasses import replace

from headrace_operator.decide.actions import Action, Promote
from headrace_operator.decide.rolling import is_leaving
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.sizing import order, remove, victim_order
from headrace_operator.decide.values import Observed, PodState, Role
from headrace_operator.service import InferenceDeployment


def without_canaries(observed: Observed, progress: Progress) -> Observed:
    """What the stable revision has."""
    return replace(observed, pods=tuple(pod for pod in observed.pods if not progress.is_canary(pod)))


def stable_replicas(deployment: InferenceDeployment, observed: Observed, progress: Progress, replicas: int) -> int:
    """As many as decided. Only a canary that found no room beside them takes the place of one; the last one stays.

    What leaves still has its GPU, so that meanwhile nobody else is told to leave, and nobody comes for it.
    """
    if progress.surge or progress.is_shadow or progress.state not in {State.TRIAL, State.ROLLED_BACK}:
        return replicas
    canaries = sum(progress.is_canary(pod) for pod in observed.live)
    others = min(replicas, len(observed.live) - canaries)
    if progress.state is State.ROLLED_BACK:
        return others if canaries else replicas
    wanted = max(1, replicas - deployment.rollout.canary.replicas)
    return max(wanted, others) if is_leaving(observed) else wanted


def place(
    deployment: InferenceDeployment, observed: Observed, progress: Progress, replicas: int, *, full: bool
) -> list[Action]:
    """Canary pods of a trial, as many as wanted. After a failed one they leave at once, whatever the rest does.

    `replicas`: as many as were decided. `full`: no pod may be added now.
    """
    canaries = sorted((pod for pod in observed.live if progress.is_canary(pod)), key=victim_order)
    if progress.state is State.ROLLED_BACK:
        return [remove(pod, f"the canary is rolled back: {progress.verdict}") for pod in canaries]
    if progress.state is not State.TRIAL:
        passed = [pod for pod in observed.live if pod.role is Role.CANARY and pod.revision == progress.updated]
        return [Promote(pod.name, pod.uid, "the canary is promoted") for pod in passed]
    wanted = 0 if progress.is_shadow else deployment.rollout.canary.replicas
    missing = wanted - len(canaries)
    if missing < 0:
        return _surplus(observed, canaries, -missing, replicas)
    revision = observed.revision(progress.updated)
    return order(deployment, revision, observed, missing, Role.CANARY) if revision and not full else []


def _surplus(observed: Observed, canaries: list[PodState], number: int, replicas: int) -> list[Action]:
    """More than a trial needs, after an edit in the middle of a rollout: they serve until enough others do."""
    idle = [pod for pod in canaries[:number] if not pod.is_ready]
    serving = [pod for pod in canaries[:number] if pod.is_ready][: max(0, len(observed.ready) - replicas)]
    return [remove(pod, "more canary pods than wanted") for pod in (*idle, *serving)]
