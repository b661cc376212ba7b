"""From the wanted number to a list of actions, as values. Applying an empty plan is what a settled system does."""

from collections.abc import Sequence
from dataclasses import replace

from headrace_operator.decide import revisions, shadows, trial
from headrace_operator.decide.actions import Action, Announce, CreatePod, DeletePod, Demote, Promote, Unroute
from headrace_operator.decide.holding import at_stake, hold
from headrace_operator.decide.leaving import leave
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.rolling import is_full, roll
from headrace_operator.decide.rollouts import Progress
from headrace_operator.decide.sizing import size, tend_standby
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import InferenceDeployment, Mode

_WARNINGS = {Reason.INSUFFICIENT_GPU, Reason.MODEL_REFUSED, Reason.METRICS_MISSING, Reason.AT_MAXIMUM}


def plan(
    deployment: InferenceDeployment,
    image: str,
    observed: Observed,
    decision: Decision,
    *,
    progress: Progress,
    said: Reason | None,
    now: float,
    gate_keys: Sequence[str] = (),
) -> list[Action]:
    """`said`: the reason that was announced last; an event is news, not a heartbeat. `gate_keys`: see `template`."""
    actions: list[Action] = _announcements(decision, said)
    if deployment.scaling.mode is Mode.SHADOW:
        return actions
    actions += leave(observed, deployment.drain_timeout, now)
    actions += revisions.keep(deployment, image, observed, (progress.stable, progress.updated), gate_keys)
    actions += shadows.retire(deployment, observed, progress, decision)
    if promoted := shadows.promote(observed, progress):
        return actions + promoted  # at the next look they are among the replicas
    full = is_full(observed, decision.situation.budget)
    actions += trial.place(deployment, observed, progress, decision.replicas, full=full)
    revision = observed.revision(progress.serving)
    if revision is None:  # its record comes first, and the tick after it makes the pods
        return actions
    shadowed = shadows.add(deployment, observed, progress, decision)
    decision = replace(decision, replicas=trial.stable_replicas(deployment, observed, progress, decision.replicas))
    observed = trial.without_canaries(observed, progress)
    sides = at_stake(observed, progress)
    if sides:
        actions += hold(deployment, sides, observed, decision.replicas, full=full)
    elif any(pod.revision != revision.hash for pod in observed.live):
        actions += roll(deployment, revision, observed, decision.replicas, full=full)
    else:
        actions += size(deployment, revision, observed, decision)
    if not any(isinstance(action, CreatePod | Promote | Demote) for action in actions):
        actions += tend_standby(deployment, sides.stable if sides else revision, observed)
    return actions + shadowed + _off_the_wrong_device(observed, actions)


def _announcements(decision: Decision, said: Reason | None) -> list[Action]:
    is_news = decision.replicas != decision.current or (decision.reason in _WARNINGS and decision.reason is not said)
    return [Announce(decision.reason, decision.message, decision.reason in _WARNINGS)] if is_news else []


def _off_the_wrong_device(observed: Observed, planned: list[Action]) -> list[Action]:
    """What computes on another device than it should is not routed; it stays, for its successor would do the same."""
    leaving = {action.name for action in planned if isinstance(action, Unroute | Demote | DeletePod)}
    routed = [pod for pod in observed.in_phase(PodPhase.DEVICE_MISMATCH) if pod.routable]
    wrong = [pod for pod in routed if pod.name not in leaving]
    return [Unroute(pod.name, pod.uid, pod.message) for pod in wrong]
