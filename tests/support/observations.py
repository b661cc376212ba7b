"""Values as the edges would have seen them, with defaults that are unremarkable: one says only what a test is about."""

import math
from dataclasses import replace
from typing import Any

from headrace_operator.decide import manifests, revisions
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision, decide
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState, Revision
from headrace_operator.pod_fields import PodFields, Spread, Toleration
from headrace_operator.service import Batching, InferenceDeployment, Model, Resources, Scaling
from headrace_operator.sources import ClaimSource

IMAGE = "headrace-server:1"
NOW = 1_000_000.0  # epoch seconds
CAPACITY = 100.0  # tokens/s of one replica
WORK = 10.0  # tokens of a request
SLOTS = 64  # requests that a replica runs together
EVERY_POD_FIELD = PodFields(
    node_selector=(("nvidia.com/gpu.product", "H200"),),
    tolerations=(Toleration("Equal", "team", "a", "NoExecute", 60), Toleration("Exists")),
    priority_class="serving",
    runtime_class="nvidia",
    topology_spread=(Spread("topology.kubernetes.io/zone", 2, "DoNotSchedule"),),
    pull_secrets=("registry",),
    pull_policy="Always",
    env=(("NCCL_DEBUG", "INFO"),),
    labels=(("team", "a"),),
    annotations=(("example.com/owner", "a@example.com"),),
)


def scaling(**changes: Any) -> Scaling:
    usual = Scaling(min_replicas=1, max_replicas=100, queue_wait_target=0.5, utilization=0.7, scale_down_window=300.0)
    return replace(usual, **changes)


def deployment(**changes: Any) -> InferenceDeployment:
    usual = InferenceDeployment(
        namespace="default",
        name="llama",
        uid="cr-uid",
        generation=3,
        model=Model(ClaimSource("models", "llama-3.1-8b"), "bfloat16", "cuda"),
        resources=Resources(gpus=1),
        scaling=scaling(),
        batching=Batching(max_running=SLOTS, max_tokens_per_step=2048, max_waiting=1024),
        drain_timeout=120.0,
    )
    return replace(usual, **changes)


def recorded(given: InferenceDeployment | None = None, *, image: str = IMAGE, number: int = 1) -> Revision:
    """The record of what a manifest asks for."""
    given = given or deployment()
    name = revisions.asked(given)
    return Revision(name, number, f"llama-{name}", f"uid-{name}", manifests.pod_spec(given, image))


def settled(given: InferenceDeployment | None = None) -> Progress:
    """No trial: pods are, or become, of the revision that the manifest asks for."""
    name = revisions.asked(given or deployment())
    return Progress(State.BASELINE, name, name, NOW)


def sample(at: float = NOW, **changes: Any) -> PodSample:
    usual = PodSample(
        at=at, waiting=0, running=0, max_running=SLOTS, oldest_waiting=0.0, received=0.0, finished=0.0,
        finished_tokens=0.0, tokens=0.0,
    )  # fmt: skip
    return replace(usual, **changes)


def pod(ordinal: int = 0, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    is_ready = phase is PodPhase.READY
    usual = PodState(
        name=f"llama-{ordinal}",
        uid=f"uid-{ordinal}",
        ordinal=ordinal,
        revision="old",
        phase=phase,
        created_at=NOW - 1000.0,
        ready_at=NOW - 900.0 if is_ready else None,
        sample=sample() if is_ready else None,
    )
    return replace(usual, **changes)


def observed(ready: int = 0, *others: PodState) -> Observed:
    return Observed((*(pod(ordinal) for ordinal in range(ready)), *others))


def signals(ready: int, *, load: float | None = None, **changes: Any) -> Signals:
    """`load`: tokens/s that arrive, as a multiple of what all ready replicas carry at 70 %."""
    arrivals = None if load is None else load * ready * CAPACITY * 0.7 / WORK
    usual = Signals(
        asked=ready, answered=ready, arrivals=arrivals, throughput=None, work_per_request=WORK, capacity=CAPACITY,
        waiting=0, running=0, max_running=SLOTS, queue_wait_p95=0.0, typical_wait=0.0, queue_drains_in=0.0,
        ready_unchanged=math.inf,
    )  # fmt: skip
    return replace(usual, **changes)


def decided(
    ready: int, seen: Signals, *others: PodState, policy: Scaling | None = None, before: tuple[int, ...] = ()
) -> Decision:
    """The decision on `ready` pods and others; `before`: what the last ticks recommended, newest last."""
    pods = observed(ready, *others)
    recommendations = tuple((NOW - 2.0 * (len(before) - index), value) for index, value in enumerate(before))
    history = History(desired=len(pods.live), recommendations=recommendations)
    return decide(look(policy or scaling(), pods, seen, history, NOW))
