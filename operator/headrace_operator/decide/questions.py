"""What is still to be asked about golden prompts, and of whom."""

import math
from dataclasses import dataclass

from headrace_operator.decide.evidence import key
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.service import GoldenPrompt, InferenceDeployment


@dataclass(frozen=True, slots=True)
class Door:
    """Where a pod is asked, and the token by which it knows that its operator asks."""

    url: str  # http://HOST:PORT
    token: str  # its UID


@dataclass(frozen=True, slots=True)
class Questions:
    """Of one trial. The same prompt goes to one pod of each side."""

    trial: str  # tells one trial from the next
    model: str  # name under which the servers serve
    stable: Door  # of a ready pod
    canary: Door  # of a ready pod
    prompts: tuple[GoldenPrompt, ...]


def questions(deployment: InferenceDeployment, observed: Observed, progress: Progress | None) -> Questions | None:
    """None outside a trial, when all scores are there, or while one side has no ready pod."""
    if progress is None or progress.state is not State.TRIAL:
        return None
    scored = {score.key for score in progress.evidence.scores}
    prompts = tuple(golden for golden in deployment.rollout.canary.golden if key(golden) not in scored)
    stable = _door([pod for pod in observed.ready if pod.revision == progress.stable])
    canary = _door([pod for pod in progress.on_trial(observed) if pod.phase is PodPhase.READY])
    if not prompts or stable is None or canary is None:
        return None
    trial = f"{deployment.uid}/{progress.updated}/{progress.started_at:.0f}"
    return Questions(trial, deployment.name, stable, canary, prompts)


def _door(ready: list[PodState]) -> Door | None:
    """Of the one that carries least."""
    known = [pod for pod in ready if pod.address]
    if not known:
        return None
    chosen = min(known, key=_carries)
    return Door(f"http://{chosen.address}:{chosen.admin_port}", chosen.uid)


def _carries(pod: PodState) -> float:
    return pod.sample.running + pod.sample.waiting if pod.sample else math.inf
