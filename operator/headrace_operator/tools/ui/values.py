"""What one look at the cluster brought. Times in epoch seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace_operator.decide.manifests import DEPLOYMENT_LABEL

Body = Mapping[str, Any]


class Point(NamedTuple):
    """What is remembered of one deployment at one moment; a tuple, so that JSON has it as a short list."""

    at: float
    queue_wait: float | None  # seconds, p95
    tokens: float | None  # per second
    ready: int | None
    desired: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing new can be seen."""

    what: str
    remedy: str
    since: float


@dataclass(frozen=True, slots=True)
class Look:
    """A look that failed keeps what the one before saw, and says so in `problem`."""

    at: float
    number: int  # of looks so far
    server: str  # the API server's address
    namespace: str | None  # None = all
    interval: float = 2.0  # seconds between two looks
    objects: Sequence[Body] = ()
    pods: Mapping[tuple[str, str], Sequence[Body]] = field(default_factory=dict)  # by namespace, deployment
    events: Mapping[str, Sequence[Body]] = field(default_factory=dict)  # by the deployment's UID
    history: Mapping[str, Sequence[Point]] = field(default_factory=dict)  # by the deployment's UID
    problem: Problem | None = None
    notes: tuple[str, ...] = ()  # what could not be seen beside the deployments, and the remedy

    def pods_of(self, body: Body) -> Sequence[Body]:
        metadata = body["metadata"]
        return self.pods.get((metadata["namespace"], metadata["name"]), ())

    def events_of(self, body: Body) -> Sequence[Body]:
        return self.events.get(body["metadata"]["uid"], ())


def belongs_to(pod: Body) -> tuple[str, str]:
    """Namespace and name of the deployment that a pod was made for."""
    metadata = pod["metadata"]
    return metadata["namespace"], metadata.get("labels", {}).get(DEPLOYMENT_LABEL, "")
