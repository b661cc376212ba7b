"""What a step of a rollout tells people, as events."""

from headrace_operator.decide.actions import Action, Announce
from headrace_operator.decide.reasons import Announcement, Verdict
from headrace_operator.decide.rollouts import Progress, State


def news(before: Progress | None, after: Progress) -> list[Action]:
    """Events for what changed."""
    if before is None or _trial_of(before) == _trial_of(after):
        return _stalled(before, after)
    if after.state is State.TRIAL:
        return [Announce(*_begins(after))]
    if after.state is State.ROLLED_BACK:
        told = f"{after.verdict}: {after.message}; revision {after.stable} serves on"
        reason = Announcement.SHADOW_ROLLED_BACK if after.is_shadow else Announcement.CANARY_ROLLED_BACK
        return [Announce(reason, told, is_warning=True)]
    if after.state is not State.PROMOTING:
        return []
    if before.state is State.TRIAL and after.verdict is Verdict.ALL_GATES_PASSED:
        reason = Announcement.SHADOW_PROMOTED if after.is_shadow else Announcement.CANARY_PROMOTED
        return [Announce(reason, f"{after.verdict}: {after.message}")]
    told = f"pods are replaced one by one by revision {after.updated}"
    return [Announce(Announcement.ROLLOUT_STARTED, f"{told}: {after.message}" if after.message else told)]


def _trial_of(progress: Progress) -> tuple[State, str, bool]:
    return progress.state, progress.updated, progress.is_shadow and progress.state is State.TRIAL


def _begins(trial: Progress) -> tuple[Announcement, str]:
    if trial.is_shadow:
        told = f"revision {trial.updated} hears copies of the requests that {trial.stable} serves"
        return Announcement.SHADOW_STARTED, told
    return Announcement.CANARY_STARTED, f"revision {trial.updated} is tried beside {trial.stable}"


def _stalled(before: Progress | None, after: Progress) -> list[Action]:
    if before is None or before.headway.is_overdue or not after.headway.is_overdue:
        return []
    told = f"revision {after.updated} got no further within rollout.progressDeadline"
    return [Announce(Announcement.ROLLOUT_STALLED, f"{told}: {after.message}", is_warning=True)]
