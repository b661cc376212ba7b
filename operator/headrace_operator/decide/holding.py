"""While no pod of a new revision has become Ready, the one that was Ready last keeps its replicas: what it loses is
replaced by its own, and one pod of the new revision shows what it can do.

Once one has, `rolling` replaces pod by pod. Where both find no room, the new revision's pod has the place of one
replica, and gives it back after `rollout.progressDeadline`.
"""

from dataclasses import dataclass

from headrace_operator.decide.actions import Action, DeletePod
from headrace_operator.decide.rolling import make_room, waits_for_room
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.sizing import create, let_go, remove, victim_order
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision
from headrace_operator.service import InferenceDeployment

HAS_SERVED = {PodPhase.READY, PodPhase.UNREADY}  # a probe that fails for a moment proves nothing against a revision


@dataclass(frozen=True, slots=True)
class Sides:
    """Both revisions of a rollout, and where it stands."""

    new: Revision
    stable: Revision
    progress: Progress


def at_stake(observed: Observed, progress: Progress) -> Sides | None:
    """None where there is nothing to hold on to, or no need."""
    new, stable = observed.revision(progress.updated), observed.revision(progress.stable)
    is_at_stake = progress.state is State.PROMOTING and progress.stable_served and progress.stable != progress.updated
    is_proven = any(pod.revision == progress.updated and pod.phase in HAS_SERVED for pod in observed.live)
    return Sides(new, stable, progress) if new and stable and is_at_stake and not is_proven else None


def hold(
    deployment: InferenceDeployment, sides: Sides, observed: Observed, replicas: int, *, full: bool
) -> list[Action]:
    """`full`: see `rolling.is_full`."""
    new = [pod for pod in observed.live if pod.revision == sides.new.hash]
    old = [pod for pod in observed.live if pod.revision != sides.new.hash]
    has_surge, is_wanting = sides.progress.surge, any(map(waits_for_room, old))
    gives_back = sides.progress.headway.is_overdue and (is_wanting or not has_surge)
    kept = replicas if has_surge or gives_back else replicas - 1
    if leaving := _useless(sides, old) or _too_many(new, gives_back=gives_back, most=min(1, replicas)):
        return leaving
    staying = [pod for pod in old if pod.loss_announced is None]
    if len(staying) < kept:
        return create(deployment, sides.stable, observed, kept - len(staying))
    if len(staying) > replicas:
        return _surplus(staying, replicas)
    if len(staying) > kept:
        return make_room(observed, sides.new, min(old, key=victim_order))
    if going := let_go(observed, kept):
        return going
    is_asked = replicas and not (new or gives_back or is_wanting or (full and has_surge))
    return create(deployment, sides.new, observed, 1) if is_asked else []


def _useless(sides: Sides, old: list[PodState]) -> list[Action]:
    others = [pod for pod in old if not pod.is_ready and pod.revision != sides.stable.hash]
    return [DeletePod(pod.name, pod.uid, "of neither revision and not ready") for pod in others]


def _too_many(new: list[PodState], *, gives_back: bool, most: int) -> list[Action]:
    """One shows as much as several, and none where no replica is wanted. After the deadline none keeps a GPU that the
    old revision needs.
    """
    if not gives_back:
        return _surplus(new, most)
    why = "not ready within rollout.progressDeadline, and the old revision needs its place"
    return [remove(pod, why) for pod in new]


def _surplus(pods: list[PodState], number: int) -> list[Action]:
    """All but `number`, the least useful first."""
    leaving = sorted(pods, key=victim_order)[: max(0, len(pods) - number)]
    return [remove(pod, "more than are needed") for pod in leaving]
