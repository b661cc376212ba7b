"""From the wanted number to a list of actions, as values. Applying an empty plan is what a settled system does."""

from headrace_operator.decide import revisions
from headrace_operator.decide.actions import Action, Announce, DeletePod
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.rolling import roll
from headrace_operator.decide.sizing import size
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import InferenceDeployment

ROUTE_SETTLE = 3.0  # seconds between leaving the Service and SIGTERM: routers learn of it meanwhile
_GONE = {PodPhase.TERMINATING, PodPhase.LOST}
_WARNINGS = {Reason.INSUFFICIENT_GPU, Reason.MODEL_REFUSED, Reason.METRICS_MISSING, Reason.AT_MAXIMUM}


def plan(
    deployment: InferenceDeployment,
    image: str,
    observed: Observed,
    decision: Decision,
    *,
    said: Reason | None,
    now: float,
) -> list[Action]:
    """`said`: the reason that was announced last; an event is news, not a heartbeat."""
    actions: list[Action] = _announcements(decision, said)
    actions += _leave(observed, now)
    actions += revisions.keep(deployment, image, observed)
    revision = observed.revision(revisions.asked(deployment))
    if revision is None:  # its record comes first, and the tick after it makes the pods
        return actions
    old = [pod for pod in observed.live if pod.revision != revision.hash]
    if old:
        actions += roll(deployment, revision, observed, old, decision.replicas)
    else:
        actions += size(deployment, revision, observed, decision)
    return actions


def _announcements(decision: Decision, said: Reason | None) -> list[Action]:
    is_news = decision.replicas != decision.current or (decision.reason in _WARNINGS and decision.reason is not said)
    return [Announce(decision.reason, decision.message, decision.reason in _WARNINGS)] if is_news else []


def _leave(observed: Observed, now: float) -> list[Action]:
    """Unrouted pods whose routers had time to notice, and pods that will never run again."""
    lost: list[Action] = [
        DeletePod(pod.name, pod.uid, f"lost: {pod.message}") for pod in observed.pods if pod.phase is PodPhase.LOST
    ]
    return lost + [
        DeletePod(pod.name, pod.uid, "drains")
        for pod in observed.pods
        if not pod.routable and pod.phase not in _GONE and now - (pod.unrouted_at or 0.0) >= ROUTE_SETTLE
    ]
