"""The start-up ledger: what each start of a pod spent its time on, from the pod's and the server's own times.

Every pod that still exists tells of its start again, so an operator that was restarted has the ledger back at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from headrace_operator.decide.values import Observed, PodPhase, PodState

KEPT = 20  # starts
LATE = 30.0  # seconds between warm and Ready after which Ready is not the end of this start: it was lost and came back


class Step(StrEnum):
    """Label of headrace_operator_startup_seconds and name in status, in the order in which a pod passes them."""

    SCHEDULED = "scheduled"  # since it was created: waiting for a GPU
    PULLED = "pulled"  # since scheduled: image, volumes, until the container runs
    WEIGHTS = "weights"  # since the container runs: weights on the device
    WARMED = "warmed"  # since the weights are there: kernels, graphs, first steps
    READY = "ready"  # since warm: until Kubernetes says Ready
    WHOLE = "whole"  # since it was created


@dataclass(frozen=True, slots=True)
class Start:
    uid: str  # of the pod
    seconds: tuple[tuple[Step, float], ...]  # each step, and the whole


@dataclass(frozen=True, slots=True)
class Ledger:
    starts: tuple[Start, ...] = ()  # newest last

    def seen(self, observed: Observed) -> tuple["Ledger", tuple[Start, ...]]:
        """With the starts that ended since the last look, and these alone."""
        known = {start.uid for start in self.starts}
        ended = (_start(pod) for pod in observed.pods if pod.uid not in known)
        new = tuple(start for start in ended if start is not None)
        # Pods that still exist stay known, or they would be counted again.
        here = {pod.uid for pod in observed.pods}
        starts = (*self.starts, *new)
        kept = tuple(start for n, start in enumerate(starts) if start.uid in here or n >= len(starts) - KEPT)
        return Ledger(kept), new

    def quantile(self, step: Step, share: float) -> float | None:
        """Seconds, nearest rank; None before the first start."""
        ordered = sorted(seconds for start in self.starts for taken, seconds in start.seconds if taken is step)
        return ordered[max(0, -int(-len(ordered) * share // 1) - 1)] if ordered else None

    def as_status(self) -> list[dict[str, str]]:
        """p50 and p95 of each step, one decimal."""
        known = [(step, self.quantile(step, 0.5), self.quantile(step, 0.95)) for step in Step if step is not Step.WHOLE]
        return [
            {"phase": str(step), "p50Seconds": f"{p50:.1f}", "p95Seconds": f"{p95:.1f}"}
            for step, p50, p95 in known
            if p50 is not None and p95 is not None
        ]


def _start(pod: PodState) -> Start | None:
    """None while it goes on, and where a step was not seen or a restart has replaced it."""
    steps = pod.startup
    times = (pod.created_at, steps.scheduled_at, steps.pulled_at, steps.weights_at, steps.warmed_at, pod.ready_at)
    passed = [at for at in times if at is not None]
    if pod.phase is not PodPhase.READY or pod.restarts or len(passed) < len(times) or passed[-1] - passed[-2] > LATE:
        return None
    return Start(pod.uid, (*zip(_STEPS, _between(passed), strict=True), (Step.WHOLE, passed[-1] - passed[0])))


_STEPS = (Step.SCHEDULED, Step.PULLED, Step.WEIGHTS, Step.WARMED, Step.READY)


def _between(times: Sequence[float]) -> list[float]:
    """Not below zero: Kubernetes writes whole seconds and a server fractions."""
    return [max(0.0, after - before) for before, after in pairwise(times)]
