"""Where a rollout stands, as a state machine: Baseline -> [Trial ->] Promoting -> Baseline, or Trial -> RolledBack.

Baseline    every pod is of the revision that the manifest asks for
Trial       canary pods of the new revision serve beside the stable one, or shadow pods hear copies of its requests, and
            evidence is gathered
Promoting   pods are replaced one by one by the new revision
RolledBack  the manifest asks for a revision that failed its trial; the stable one serves on, until the manifest changes

Everything here goes to status and comes back from there, so that another operator continues where this one ended.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from headrace_operator.decide import revisions
from headrace_operator.decide.canary import Gates, Judgement, judge
from headrace_operator.decide.evidence import Evidence, Score
from headrace_operator.decide.headway import Headway, laggard, obstacle
from headrace_operator.decide.reasons import Progress as Reason
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.rolling import waits_for_room
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.service import InferenceDeployment, Mode, Strategy

NO_PLACE = "no GPU is free, and shadow pods take no replica's place: free one, or use strategy Canary, whose pods do"


class State(StrEnum):
    BASELINE = "Baseline"
    TRIAL = "Trial"
    PROMOTING = "Promoting"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one InferenceDeployment's rollout."""

    state: State
    stable: str  # hash of the revision that served before, and that a rollback goes back to
    updated: str  # hash of the revision that the manifest asks for
    started_at: float  # of this rollout, epoch seconds
    verdict: Verdict = Verdict.NOT_TRIED
    message: str = ""  # of the verdict, with the numbers
    surge: bool = True  # False once a new pod found no room beside the old ones
    evidence: Evidence = field(default_factory=Evidence)
    stable_served: bool = False  # the stable revision was Ready once
    headway: Headway = field(default_factory=Headway)  # while Promoting
    is_shadow: bool = False  # the trial is one of shadow pods

    @property
    def serving(self) -> str:
        """Hash of the revision that replicas are made from; canary pods are of the updated one."""
        return self.stable if self.state in {State.TRIAL, State.ROLLED_BACK} else self.updated

    @property
    def step(self) -> tuple[str, str]:
        """What has changed when a metric counts it: state and reason."""
        stalled = self.headway.is_overdue
        return str(self.state), str(Reason.PROGRESS_DEADLINE_EXCEEDED if stalled else self.verdict)

    def is_canary(self, pod: PodState) -> bool:
        """Of the revision on trial, or of one that failed it."""
        return self.serving != self.updated and pod.revision == self.updated and not pod.is_standby

    def on_trial(self, observed: Observed) -> list[PodState]:
        """Pods of the revision that a trial is about."""
        pods = [pod for pod in observed.shadows if not pod.is_gone] if self.is_shadow else observed.live
        return [pod for pod in pods if pod.revision == self.updated]


def advance(
    deployment: InferenceDeployment,
    observed: Observed,
    before: Progress | None,
    scores: Sequence[Score],
    now: float,
    *,
    full: bool,
) -> Progress:
    """The next state; the same one where nothing happened.

    `scores`: of golden prompts, as far as answered. `full`: no pod may be added now, as `rolling.is_full` says.
    Without a `before` (a first look, or a status that was lost), what serves now is stable.
    """
    asked = revisions.asked(deployment)
    if before is None:
        serving = _serving(observed, asked)
        before = Progress(State.BASELINE, serving, serving, now)
    if deployment.scaling.mode is Mode.SHADOW:
        return before
    before = replace(before, stable_served=before.stable_served or _is_ready(observed, before.stable))
    after = _next(deployment, observed, before, scores, now, full=full)
    return _timed(deployment, observed, before, after, now)


def _next(
    deployment: InferenceDeployment,
    observed: Observed,
    before: Progress,
    scores: Sequence[Score],
    now: float,
    *,
    full: bool,
) -> Progress:
    asked = revisions.asked(deployment)
    if asked != before.updated:
        return _begun(deployment, observed, before, asked, now)
    if before.state in {State.TRIAL, State.ROLLED_BACK} and (other := _other_way(deployment, observed, before, now)):
        return other
    match before.state:
        case State.TRIAL if before.is_shadow:
            return _overheard(deployment, observed, before, scores, now, full=full)
        case State.TRIAL:
            tried = _tried(deployment, observed, before, scores, now)
            return _surged(tried, observed, deployment.rollout.canary.replicas, full)
        case State.PROMOTING:
            return _surged(_promoted(observed, before), observed, 1, full)
        case _:
            return before


def _timed(
    deployment: InferenceDeployment, observed: Observed, before: Progress, after: Progress, now: float
) -> Progress:
    """With the clock of rollout.progressDeadline, which runs while pods are replaced."""
    if after.state is not State.PROMOTING:
        return replace(after, headway=Headway())
    is_at_zero = deployment.scaling.min_replicas == 0 and not observed.live  # nobody asks, so nothing is to be replaced
    if is_at_zero or (before.state, before.updated) != (after.state, after.updated):
        return replace(after, headway=Headway.begun(observed, after.updated, now))
    made = after.headway.made(observed, after.updated, deployment.rollout.progress_deadline, now)
    if made.is_overdue is before.headway.is_overdue:
        return replace(after, headway=made)
    return replace(after, headway=made, message=obstacle(observed, after.updated) if made.is_overdue else "")


def _serving(observed: Observed, asked: str) -> str:
    """The revision of most ready pods, as far as it is on record: pods of any other could never be made again."""
    ready = Counter(pod.revision for pod in observed.ready if observed.revision(pod.revision))
    return ready.most_common(1)[0][0] if ready else asked


def _is_ready(observed: Observed, revision: str) -> bool:
    return any(pod.revision == revision for pod in observed.ready)


def _begun(deployment: InferenceDeployment, observed: Observed, before: Progress, asked: str, now: float) -> Progress:
    """The manifest changed. What was stable stays so until something else has taken over completely."""
    new = Progress(State.PROMOTING, before.stable, asked, now, stable_served=before.stable_served)
    if asked == before.stable:
        return _promoted(observed, new)
    # With nothing that serves there is nothing to compare with, and nothing to protect.
    if deployment.rollout.strategy is not Strategy.ROLLING and _is_ready(observed, before.stable):
        return _trial(deployment, new)
    return new


def _trial(deployment: InferenceDeployment, new: Progress) -> Progress:
    is_shadow = deployment.rollout.strategy is Strategy.SHADOW
    return replace(
        new, state=State.TRIAL, verdict=Verdict.EVIDENCE_MISSING, message="the trial begins", is_shadow=is_shadow
    )


def _other_way(deployment: InferenceDeployment, observed: Observed, before: Progress, now: float) -> Progress | None:
    """What follows when the strategy changed during a trial, or after a failed one. None = it did not.

    Another trial begins anew: evidence of copies and of requests do not add up. A revision that failed gets one as soon
    as there is something to compare with.
    """
    strategy = deployment.rollout.strategy
    if strategy is Strategy.ROLLING:
        return replace(before, state=State.PROMOTING, verdict=Verdict.NOT_TRIED, message="strategy is Rolling now")
    is_same = before.is_shadow is (strategy is Strategy.SHADOW)
    if is_same or not (before.state is State.TRIAL or _is_ready(observed, before.stable)):
        return None
    new = Progress(State.TRIAL, before.stable, before.updated, now, stable_served=before.stable_served)
    return _trial(deployment, new)


def _overheard(
    deployment: InferenceDeployment,
    observed: Observed,
    before: Progress,
    scores: Sequence[Score],
    now: float,
    *,
    full: bool,
) -> Progress:
    """A trial of shadow pods, which have a place where one is free and take nobody's."""
    pods, wanted = before.on_trial(observed), deployment.rollout.canary.replicas
    is_stuck = any(waits_for_room(pod) for pod in (*pods, *observed.live)) or (full and len(pods) < wanted)
    why = "; ".join(filter(None, (laggard(pods), observed.refused, NO_PLACE if is_stuck else "")))
    tried = _tried(deployment, observed, before, scores, now, obstacle=why)
    is_over = tried.state is not State.TRIAL
    return replace(tried, surge=is_over or not is_stuck)


def _tried(
    deployment: InferenceDeployment,
    observed: Observed,
    before: Progress,
    scores: Sequence[Score],
    now: float,
    *,
    obstacle: str = "",
) -> Progress:
    """`obstacle`: why not all pods are there and ready."""
    policy, pods = deployment.rollout.canary, before.on_trial(observed)
    stable = [pod for pod in observed.live if pod.revision == before.stable]
    is_ready = len(pods) >= policy.replicas and all(pod.phase is PodPhase.READY for pod in pods)
    evidence = before.evidence.gathered(stable, pods, scores).ready(is_ready=is_ready, now=now)
    target, is_shadow = deployment.scaling.queue_wait_target, before.is_shadow
    judged = judge(Gates(policy, target, pods, evidence, before.started_at, now, is_shadow, obstacle))
    return replace(
        before,
        state=_after(judged),
        verdict=judged.verdict,
        message=judged.message,
        evidence=evidence,
    )


def _after(judged: Judgement) -> State:
    if judged.is_back:
        return State.ROLLED_BACK
    return State.PROMOTING if judged.verdict is Verdict.ALL_GATES_PASSED else State.TRIAL


def _promoted(observed: Observed, before: Progress) -> Progress:
    """Complete when no pod of another revision is left, and one of the new revision serves."""
    kept = [*observed.live, *observed.standby]
    is_complete = bool(observed.ready) and all(pod.revision == before.updated for pod in kept)
    complete = replace(before, state=State.BASELINE, stable=before.updated, surge=True, stable_served=True)
    return complete if is_complete else before


def _surged(progress: Progress, observed: Observed, wanted: int, full: bool) -> Progress:
    """Did `wanted` new pods find room beside the old ones? Once one did not, the rollout goes on without a surge."""
    new = [pod for pod in observed.live if pod.revision == progress.updated]
    is_stuck = any(waits_for_room(pod) for pod in new) or (full and len(new) < wanted)
    is_over = progress.state in {State.BASELINE, State.ROLLED_BACK}
    return replace(progress, surge=False) if is_stuck and not is_over else progress
