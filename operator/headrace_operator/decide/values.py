"""What the edges saw, as values. `at` and every other time is in epoch seconds, given by the caller."""

from dataclasses import dataclass, field
from enum import StrEnum


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
    # (upper bound in seconds, cumulative count), ascending, ends in inf
    queue_waits: tuple[tuple[float, float], ...] = ()


class Role(StrEnum):
    """What a pod is kept for."""

    REPLICA = "replica"
    STANDBY = "standby"  # loaded, not routed; promoted in a moment
    CANARY = "canary"  # of a revision on trial; routed, and counted as supply


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
    message: str = ""  # the scheduler's, kubelet's or server's own words
    sample: PodSample | None = None  # None = asked and not answered, or not ready to be asked
    role: Role = Role.REPLICA
    node: str | None = None
    loss_announced: str | None = None  # why this pod will soon be gone (cordon, taint, spot notice); None = it stays
    startup: Startup = Startup()
    restarts: int = 0

    @property
    def is_live(self) -> bool:
        """Counts as ordered: neither draining, terminating nor lost."""
        return self.phase not in {PodPhase.TERMINATING, PodPhase.LOST} and self.routable

    @property
    def is_ready(self) -> bool:
        return self.phase is PodPhase.READY and self.routable


@dataclass(frozen=True, slots=True)
class Observed:
    """All pods of one InferenceDeployment at one moment."""

    pods: tuple[PodState, ...] = field(default=())

    @property
    def live(self) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pods if pod.is_live)

    @property
    def ready(self) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pods if pod.is_ready)

    def in_phase(self, phase: PodPhase) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pods if pod.is_live and pod.phase is phase)
