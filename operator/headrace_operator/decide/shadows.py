"""Shadow pods: they hear copies of requests that routers make, answer nobody, and take nobody's place.

They have a GPU while one is free. As soon as a replica could use it they give it back, and the trial waits.
"""

from headrace_operator.decide.actions import Action, DeletePod, Promote
from headrace_operator.decide.canary import FAILURES
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.rolling import waits_for_room
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.sizing import order
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import InferenceDeployment


def promote(observed: Observed, progress: Progress) -> list[Action]:
    """Those whose revision takes over become replicas: they are loaded."""
    return [
        Promote(pod.name, pod.uid, "its revision takes over, and it is loaded")
        for pod in observed.shadows
        if _takes_over(pod, progress)
    ]


def retire(deployment: InferenceDeployment, observed: Observed, progress: Progress, decision: Decision) -> list[Action]:
    """Those that are of no use. Nobody waits for what they answer, so that they need not drain."""
    lost = [DeletePod(pod.name, pod.uid, f"lost: {pod.message}") for pod in observed.shadows if _is_lost(pod)]
    here = [pod for pod in observed.shadows if not (pod.is_gone or _takes_over(pod, progress))]
    tried = sorted((pod for pod in here if pod.revision == progress.updated), key=_use)
    surplus = tried[: max(0, len(tried) - wanted(deployment, observed, progress, decision))]
    why = _why(progress, decision, is_all=len(surplus) == len(tried))
    others = [DeletePod(pod.name, pod.uid, "another revision is asked for") for pod in here if pod not in tried]
    return [*lost, *others, *(DeletePod(pod.name, pod.uid, why) for pod in surplus)]


def add(deployment: InferenceDeployment, observed: Observed, progress: Progress, decision: Decision) -> list[Action]:
    """As many as a trial wants and the GPU budget has room for, once all replicas are there that were decided."""
    revision = observed.revision(progress.updated)
    missing = wanted(deployment, observed, progress, decision) - len(progress.on_trial(observed))
    if (budget := decision.situation.budget) is not None:
        missing = min(missing, budget - len(observed.live))
    if revision is None or missing <= 0 or len(observed.live) < decision.replicas:
        return []
    return order(deployment, revision, observed, missing, Role.SHADOW)


def wanted(deployment: InferenceDeployment, observed: Observed, progress: Progress, decision: Decision) -> int:
    """None outside a trial, while a replica needs the room, and while no replica is left to compare with."""
    is_on_trial = progress.state is State.TRIAL and progress.is_shadow and decision.replicas
    return deployment.rollout.canary.replicas if is_on_trial and not _replicas_want(observed, decision) else 0


def _replicas_want(observed: Observed, decision: Decision) -> bool:
    is_refused = observed.refused is not None and len(observed.live) < decision.replicas
    is_over_budget = any(clamp.reason is Reason.OVER_BUDGET for clamp in decision.clamps)
    return is_refused or is_over_budget or any(waits_for_room(pod) for pod in observed.live)


def _takes_over(pod: PodState, progress: Progress) -> bool:
    is_fit = not pod.is_gone and pod.phase not in FAILURES
    return progress.state is State.PROMOTING and pod.revision == progress.updated and is_fit


def _is_lost(pod: PodState) -> bool:
    return pod.phase is PodPhase.LOST


def _use(pod: PodState) -> tuple[bool, float]:
    """The least useful first: what is not ready, then the youngest."""
    return pod.phase is PodPhase.READY, -pod.created_at


def _why(progress: Progress, decision: Decision, *, is_all: bool) -> str:
    if progress.state is State.ROLLED_BACK:
        return f"the trial failed: {progress.verdict}"
    if not (progress.state is State.TRIAL and progress.is_shadow):
        return "there is no trial of shadow pods"
    if not is_all:
        return "more shadow pods than wanted"
    return "replicas need its place" if decision.replicas else "no replica is left to compare with"
