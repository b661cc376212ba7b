"""What one look at an InferenceDeployment says, as series."""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from headrace_operator.decide import phases
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.status import Tick
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.errors import InvalidSpec, Unavailable
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.work_queue import Backlog, Key

# Phases of a start that goes on: what waits for a GPU, and what failed, has phases of its own.
STARTS = {PodPhase.STARTING, PodPhase.PULLING, PodPhase.LOADING, PodPhase.WARMING_UP}


class Direction(StrEnum):
    """Label `direction` of a decision."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


class Result(StrEnum):
    """Label `result` of a look."""

    DONE = "done"
    INVALID = "invalid"  # the object says what the schema should have refused
    UNAVAILABLE = "unavailable"  # the API server was overloaded, failing or silent
    FAILED = "failed"

    @classmethod
    def of(cls, error: Exception) -> "Result":
        if isinstance(error, InvalidSpec):
            return cls.INVALID
        return cls.UNAVAILABLE if isinstance(error, Unavailable) else cls.FAILED


def tell_backlog(metrics: OperatorMetrics, backlog: Backlog) -> None:
    for state in ("waiting", "running", "backing_off"):
        metrics.queue_depth.labels(state).set(getattr(backlog, state))
    metrics.queue_oldest_seconds.set(backlog.oldest_seconds)


def tell(metrics: OperatorMetrics, tick: Tick, conditions: Sequence[Mapping[str, Any]]) -> None:
    """`conditions` as they stand in the status."""
    key = (tick.deployment.namespace, tick.deployment.name)
    _tell_decision(metrics, key, tick.decision, tick.now)
    _tell_signals(metrics, key, tick.decision)
    _tell_pods(metrics, key, tick.observed, tick.now)
    metrics.rollout.set_each(key, {tick.progress.step: 1} if tick.progress else {})
    known = {(one["type"],): float(one["status"] == "True") for one in conditions if one["status"] != "Unknown"}
    metrics.condition.set_each(key, known)
    for counter in (metrics.reversals, metrics.reconcile_failures, metrics.events_dropped):
        counter.labels(*key)  # at 0 from the beginning: PromQL's increase() does not see a first count that appears


def _tell_decision(metrics: OperatorMetrics, key: Key, decision: Decision, now: float) -> None:
    policy = decision.situation.policy
    metrics.decided_at.set(key, now)
    direction, reason = _direction(decision), str(decision.reason)
    metrics.decisions.labels(*key, direction, reason).inc()
    metrics.reason.set_each(key, {(reason,): 1})
    if direction is not Direction.NONE:
        metrics.changed_at.set_each(key, {(direction, reason): now})
    metrics.desired_replicas.set(key, decision.replicas)
    wanted = max((proposal.replicas for proposal in decision.proposals), default=None)
    metrics.wanted_replicas.set(key, wanted)
    proposed = {(str(proposal.signal),): proposal.replicas for proposal in decision.proposals}
    metrics.proposed_replicas.set_each(key, proposed)
    metrics.min_replicas.set(key, policy.min_replicas)
    metrics.max_replicas.set(key, policy.max_replicas)
    metrics.queue_wait_target_seconds.set(key, policy.queue_wait_target)
    metrics.mode.set_each(key, {(str(policy.mode),): 1})
    metrics.start_seconds.set(key, decision.situation.start_time)
    metrics.silent_seconds.set(key, decision.situation.silent_for)


def _direction(decision: Decision) -> Direction:
    if decision.replicas == decision.current:
        return Direction.NONE
    return Direction.UP if decision.replicas > decision.current else Direction.DOWN


def _tell_signals(metrics: OperatorMetrics, key: Key, decision: Decision) -> None:
    signals = decision.signals
    metrics.queue_wait_p95_seconds.set(key, signals.queue_wait_p95)
    metrics.arrivals.set(key, signals.arrivals)
    metrics.throughput.set(key, signals.throughput)
    metrics.demand.set(key, signals.demand)
    metrics.capacity.set(key, signals.capacity)
    metrics.asked_pods.set(key, signals.asked)
    metrics.answered_pods.set(key, signals.answered)
    metrics.waiting.set(key, signals.waiting if signals.answered else None)
    metrics.running.set(key, signals.running if signals.answered else None)


def _tell_pods(metrics: OperatorMetrics, key: Key, observed: Observed, now: float) -> None:
    metrics.ready_replicas.set(key, len(observed.ready))
    metrics.warm_replicas.set(key, sum(pod.is_warm for pod in observed.pods))
    counted = Counter((str(pod.role), phases.of(pod)) for pod in observed.everybody)
    metrics.pods.set_each(key, counted)
    starts = [now - _began(pod) for pod in observed.live if pod.phase in STARTS]
    metrics.oldest_start_seconds.set(key, max(starts, default=0.0))


def _began(pod: PodState) -> float:
    """Its present start, in epoch seconds: the time without a GPU is none of it, and neither is what ran before."""
    return (pod.startup.pulled_at if pod.restarts else pod.startup.scheduled_at) or pod.created_at
