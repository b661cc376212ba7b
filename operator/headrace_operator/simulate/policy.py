"""What an autoscaler sees and says in the simulation. Headrace's own and the peers' see the same."""

from dataclasses import dataclass
from typing import Protocol

from headrace_operator.decide.values import PodSample, RouterSample


@dataclass(frozen=True, slots=True)
class Pod:
    """One that is kept: neither draining nor gone."""

    ordinal: int
    created_at: float  # seconds
    ready_at: float | None  # seconds
    unschedulable_since: float | None  # seconds; None = it has its GPU
    sample: PodSample | None  # None = it starts, or did not answer
    kv_share: float = 0.0  # of the room for KV, 0..1

    @property
    def uid(self) -> str:
        return f"{self.ordinal}@{self.created_at}"


@dataclass(frozen=True, slots=True)
class Look:
    now: float  # seconds
    desired: int  # what this policy said last
    pods: tuple[Pod, ...]
    draining: tuple[Pod, ...] = ()
    routers: tuple[RouterSample | None, ...] = ()  # None = one did not answer; empty = there are none

    @property
    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready_at is not None]

    @property
    def samples(self) -> list[PodSample]:
        """Of the ready pods that answered."""
        return [pod.sample for pod in self.pods if pod.sample is not None]


@dataclass(frozen=True, slots=True)
class Bounds:
    least: int
    most: int

    def of(self, replicas: int) -> int:
        return max(self.least, min(self.most, replicas))


class Policy(Protocol):
    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        ...

    def replicas(self, look: Look) -> int:
        """The wanted number. Bounds are the policy's own to keep: some lift the minimum inside their law."""
        ...
