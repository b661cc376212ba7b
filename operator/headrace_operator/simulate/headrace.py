"""Headrace's own policy: the function that runs in the operator, fed with the values that the operator reads."""

from dataclasses import dataclass, field

from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look as look_at
from headrace_operator.decide.values import Observed, PodPhase, PodState, RouterState
from headrace_operator.service import Scaling
from headrace_operator.simulate.policy import Look, Pod

NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


@dataclass(slots=True)
class Headrace:
    scaling: Scaling
    interval: float = 2.0  # seconds; the operator's --interval
    history: History = field(default_factory=History)
    decision: Decision | None = None

    def replicas(self, look: Look) -> int:
        pods = tuple(_state(pod) for pod in look.pods)
        leaving = tuple(_state(pod, unrouted_at=look.now) for pod in look.draining)
        routers = [RouterState(f"router-{number}", True, sample) for number, sample in enumerate(look.routers)]
        observed = Observed((*pods, *leaving), routers=tuple(routers))
        if self.history.desired is None:  # a deployment that has served before: it may begin without any replica
            self.history = History.restored({"hasBeenReady": True}, look.desired, look.now)
        self.history, signals = measure(observed, self.history, look.now)
        self.decision = decide(look_at(self.scaling, observed, signals, self.history, look.now))
        self.history = remembered(self.history, self.decision, look.now)
        return self.decision.replicas


def _state(pod: Pod, unrouted_at: float | None = None) -> PodState:
    phase = PodPhase.LOADING
    if pod.ready_at is not None:
        phase = PodPhase.READY
    elif pod.unschedulable_since is not None:
        phase = PodPhase.UNSCHEDULABLE
    return PodState(
        name=f"pod-{pod.ordinal}",
        uid=pod.uid,
        ordinal=pod.ordinal,
        revision="",
        phase=phase,
        created_at=pod.created_at,
        routable=unrouted_at is None,
        ready_at=pod.ready_at,
        unrouted_at=unrouted_at,
        unschedulable_since=pod.unschedulable_since,
        message=NO_GPU if phase is PodPhase.UNSCHEDULABLE else "",
        sample=pod.sample,
    )
