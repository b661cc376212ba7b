"""What the edges saw, as values. `at` and every other time is in epoch seconds, given by the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace_operator.decide.buckets import Bucket
from headrace_operator.decide.ports import ADMIN_PORT


class PodPhase(StrEnum):
    """What a pod is doing, in the words that people need."""

    READY = "Ready"
    STARTING = "Starting"  # created, and not yet told apart further
    PULLING = "Pulling"  # scheduled; the image comes
    LOADING = "Loading"  # the server runs and reads its weights
    WARMING_UP = "WarmingUp"  # weights are on the device; first steps, kernels, graphs
    UNSCHEDULABLE = "WaitingForGPU"  # the scheduler finds no place
    DEVICE_MISMATCH = "DeviceMismatch"  # the server computes on another device than the manifest says
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CRASH_LOOPING = "CrashLooping"
    MODEL_REFUSED = "ModelRefused"  # the server said that this checkpoint cannot be served
    UNREADY = "NotReady"  # it has served, and its readiness probe fails now; also while it drains
    LOST = "Lost"  # evicted, or ended by its node: it will never run again
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True)
class PodSample:
    """One reading of one pod's /metrics. Counters count since the process started."""

    at: float  # epoch seconds
    waiting: int  # requests
    running: int  # requests
    max_running: int  # requests
    oldest_waiting: float  # seconds
    received: float  # requests admitted, or refused for want of room: both are demand; counter
    finished: float  # requests, counter
    finished_tokens: float  # prompt + generated tokens of finished requests, counter
    tokens: float  # prompt + generated tokens computed, counter
    queue_waits: Sequence[Bucket] = ()  # ascending, the last bound is inf
    failed: float = 0.0  # requests that ended by the server's fault, counter
    refused: float = 0.0  # requests refused for want of room, counter
    retried: float = 0.0  # of those received, requests that said they were asked before; 0 if nobody says; counter
    token_gaps: float = 0.0  # times between two tokens of a request, counter
    token_gap_seconds: float = 0.0  # their sum, counter
    kv_use: float = 0.0  # share of the KV pages that requests hold, 0..1; 0 also of a server that does not say
    drained: bool | None = None  # told to drain, and the last answer is out; None = a server that does not say


@dataclass(frozen=True, slots=True)
class RouterSample:
    """One reading of one router's /metrics."""

    held: int  # requests that wait there, for want of a replica
    oldest_held: float  # seconds


@dataclass(frozen=True, slots=True)
class RouterState:
    """One router that holds requests for an InferenceDeployment."""

    name: str
    is_ready: bool
    sample: RouterSample | None = None  # None = asked and not answered, or not ready to be asked
    message: str = ""  # the scheduler's, kubelet's or router's own words, where they say why it is not ready
    group: str = ""  # of the model routers that it is one of; empty: the deployment's own


class Role(StrEnum):
    """What a pod is kept for."""

    REPLICA = "replica"
    STANDBY = "standby"  # loaded, not routed; promoted in a moment
    CANARY = "canary"  # of a revision on trial; routed, and counted as supply
    SHADOW = "shadow"  # likewise on trial; hears copies of requests, its answers reach nobody, and it is no supply


# Python 3.11 takes 0.1 us to find a member of an enum, and each look asks each pod a dozen times.
_READY, _LOST, _TERMINATING = PodPhase.READY, PodPhase.LOST, PodPhase.TERMINATING
_DEVICE_MISMATCH, _STANDBY, _SHADOW = PodPhase.DEVICE_MISMATCH, Role.STANDBY, Role.SHADOW


@dataclass(frozen=True, slots=True)
class Startup:
    """When a pod passed each step of its start, epoch seconds; None = not yet, or not seen."""

    scheduled_at: float | None = None
    pulled_at: float | None = None  # the container started
    weights_at: float | None = None  # on the device
    warmed_at: float | None = None


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod of one InferenceDeployment."""

    name: str
    uid: str
    ordinal: int
    revision: str
    phase: PodPhase
    created_at: float
    routable: bool = True
    ready_at: float | None = None
    unrouted_at: float | None = None  # set while it drains
    unschedulable_since: float | None = None  # since when the scheduler has found no place
    message: str = ""  # the scheduler's, kubelet's or server's own words
    sample: PodSample | None = None  # None = asked and not answered, or not ready to be asked
    role: Role = Role.REPLICA
    node: str | None = None
    address: str | None = None  # IP
    admin_port: int = ADMIN_PORT  # where it answers /metrics and /drain
    loss_announced: str | None = None  # why this pod will soon be gone (cordon, taint, spot notice); None = it stays
    startup: Startup = Startup()
    restarts: int = 0

    @property
    def is_gone(self) -> bool:
        """Stops already, or will never run again."""
        return self.phase is _TERMINATING or self.phase is _LOST

    @property
    def is_standby(self) -> bool:
        return self.role is _STANDBY and not self.is_gone

    @property
    def is_live(self) -> bool:
        """Counts as ordered: neither standby, shadow, draining, terminating nor lost.

        One on the wrong device is not routed and still counts: replacing it again and again would not help.
        """
        phase, role = self.phase, self.role
        is_kept = self.routable or phase is _DEVICE_MISMATCH
        is_replica = role is not _STANDBY and role is not _SHADOW
        return is_kept and is_replica and phase is not _TERMINATING and phase is not _LOST

    @property
    def is_draining(self) -> bool:
        return not (self.is_gone or self.is_live or self.role is _STANDBY or self.role is _SHADOW)

    @property
    def is_ready(self) -> bool:
        is_replica = self.role is not _STANDBY and self.role is not _SHADOW
        return self.phase is _READY and self.routable and is_replica  # as `is_live`: a look asks it of each pod

    @property
    def is_warm(self) -> bool:
        """A standby that could serve at once, and goes on to exist."""
        return self.is_standby and self.phase is _READY and self.loss_announced is None


@dataclass(frozen=True, slots=True)
class Revision:
    """What pods are made from, as it was recorded when the manifest first said it."""

    hash: str  # of what the manifest said
    number: int  # 1 for the first, rising
    name: str  # of the record
    uid: str  # of the record
    spec: Mapping[str, Any]  # of the pod
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the manifest's own labels and annotations of the pod


@dataclass(frozen=True, slots=True)
class Observed:
    """All pods of one InferenceDeployment at one moment, and the revisions on record.

    Shadows stand apart: what counts pods, sums their load or looks for a victim cannot meet one by mistake.
    """

    pods: tuple[PodState, ...] = field(default=())  # but shadows
    revisions: tuple[Revision, ...] = ()
    refused: str | None = None  # why the API server created no pod at the last try: a ResourceQuota
    standby_room: int | None = None  # standby pods that the GPU budget allows beside those here; None = no budget
    routers: tuple[RouterState, ...] = ()
    no_routing: str | None = None  # why what spec.routing asks for could not be made
    shadows: tuple[PodState, ...] = ()  # until they are gone

    @property
    def everybody(self) -> tuple[PodState, ...]:
        return self.pods + self.shadows

    @property
    def live(self) -> tuple[PodState, ...]:
        return tuple([pod for pod in self.pods if pod.is_live])

    @property
    def ready(self) -> tuple[PodState, ...]:
        return tuple([pod for pod in self.pods if pod.is_ready])

    @property
    def standby(self) -> tuple[PodState, ...]:
        """Loading ones included."""
        return tuple(pod for pod in self.pods if pod.is_standby)

    def revision(self, hash: str) -> Revision | None:  # noqa: A002 - the field's name
        """None when it is not on record."""
        return next((known for known in self.revisions if known.hash == hash), None)

    def in_phase(self, phase: PodPhase) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pods if pod.is_live and pod.phase is phase)
