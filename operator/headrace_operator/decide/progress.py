"""The condition Progressing: does a rollout go on, and if it does not, why?"""

from headrace_operator.decide.conditions import Condition
from headrace_operator.decide.headway import obstacle
from headrace_operator.decide.reasons import Progress as Reason
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.values import Observed, PodPhase


def progressing(observed: Observed, progress: Progress) -> Condition:
    # The record of what the manifest asks for is made where it is missing; that of the stable revision cannot be.
    if progress.serving != progress.updated and observed.revision(progress.serving) is None:
        remedy = "its record was deleted and no pod of it can be made; change the pod template in the manifest"
        return Condition("Progressing", False, Reason.REVISION_LOST, f"revision {progress.serving}: {remedy}")
    return _OF[progress.state](observed, progress)


def _complete(observed: Observed, progress: Progress) -> Condition:
    message = f"all {len(observed.live)} replicas are of revision {progress.updated}"
    return Condition("Progressing", False, Reason.ROLLOUT_COMPLETE, message)


def _trial(observed: Observed, progress: Progress) -> Condition:
    if progress.is_shadow:
        return _shadow_trial(observed, progress)
    canaries = [pod for pod in observed.live if progress.is_canary(pod)]
    ready = sum(pod.is_ready for pod in canaries)
    tried = f"{ready} of {len(canaries)} canary pods of revision {progress.updated} are ready; {progress.message}"
    if progress.surge:
        return Condition("Progressing", True, Reason.CANARY_TRIAL, tried)
    message = f"no GPU is free: canary pods take the place of replicas, and never of the last one; {tried}"
    return Condition("Progressing", True, Reason.SURGE_IMPOSSIBLE, message)


def _shadow_trial(observed: Observed, progress: Progress) -> Condition:
    shadows = progress.on_trial(observed)
    ready = sum(pod.phase is PodPhase.READY for pod in shadows)
    tried = f"{ready} of {len(shadows)} shadow pods of revision {progress.updated} are ready; {progress.message}"
    return Condition("Progressing", True, Reason.SHADOW_TRIAL if progress.surge else Reason.WAITING_FOR_GPU, tried)


def _promoting(observed: Observed, progress: Progress) -> Condition:
    if progress.headway.is_overdue:
        return _overdue(observed, progress)
    new = [pod for pod in observed.live if pod.revision == progress.updated]
    ready = sum(pod.is_ready for pod in new)
    message = f"{ready} of {len(observed.live)} replicas are ready and of revision {progress.updated}"
    if waits_for := obstacle(observed, progress.updated):
        message += f"; {waits_for}"
    if progress.surge:
        return Condition("Progressing", True, Reason.ROLLING_UPDATE, message)
    full = "no GPU is free: an old replica leaves before its replacement starts"
    return Condition("Progressing", True, Reason.SURGE_IMPOSSIBLE, f"{full}; {message}")


def _overdue(observed: Observed, progress: Progress) -> Condition:
    """As a Deployment says it; the rollout goes on as soon as a pod becomes ready after all."""
    serving = sum(pod.revision != progress.updated for pod in observed.ready)
    cause = obstacle(observed, progress.updated) or progress.message
    message = f"revision {progress.updated} got no further within rollout.progressDeadline: {cause}"
    holds = f"{serving} replicas of revision {progress.stable} serve on; " if serving else ""
    remedy = "change the pod template in the manifest, or go back to what it said before"
    return Condition("Progressing", False, Reason.PROGRESS_DEADLINE_EXCEEDED, f"{message}; {holds}{remedy}")


def _rolled_back(observed: Observed, progress: Progress) -> Condition:
    del observed
    back = f"revision {progress.stable} serves on; change the pod template in the manifest to try again"
    message = f"revision {progress.updated}: {progress.verdict}: {progress.message}; {back}"
    reason = Reason.SHADOW_ROLLED_BACK if progress.is_shadow else Reason.CANARY_ROLLED_BACK
    return Condition("Progressing", False, reason, message)


_OF = {
    State.BASELINE: _complete,
    State.TRIAL: _trial,
    State.PROMOTING: _promoting,
    State.ROLLED_BACK: _rolled_back,
}
