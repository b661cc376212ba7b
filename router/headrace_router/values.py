"""What crosses between observe, pick and proxy."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ssl import SSLContext


class Door(StrEnum):
    """Which of a pod's two ports a request goes to."""

    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Ports:
    """Of a replica."""

    grpc: int
    http: int
    load: int  # where GET /load is answered: the admin port, or the HTTP port of a server that has none

    def of(self, door: Door) -> int:
        return self.grpc if door is Door.GRPC else self.http


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica that may be given requests: routed, ready, and not leaving."""

    uid: str  # of its pod
    name: str
    address: str  # without a port
    ports: Ports
    revision: str = ""  # of its pod; empty where no operator made it

    def host(self, door: Door) -> str:
        """As Envoy names it."""
        return self.at(self.ports.of(door))

    def at(self, port: int) -> str:
        """IPv6 in brackets."""
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"


@dataclass(frozen=True, slots=True)
class Found:
    """All replicas of a deployment that may be spoken to."""

    serving: tuple[Endpoint, ...]
    mirrors: tuple[Endpoint, ...] = ()  # hear copies of requests; their answers reach nobody


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the operator asks of a router. Nothing of it is needed to route."""

    start_seconds: float | None = None  # from order to Ready, p95; None: not known
    shares: tuple[tuple[str, float], ...] = ()  # revision -> share of the requests, 0 to 1; others share the rest
    mirror_share: float = 0.0  # of the requests, 0 to 1, that are copied to the mirrors


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica said of itself last. A replica that has not answered yet has none of these."""

    inside: int  # requests: waiting and running, whoever sent them
    max_running: int  # requests that it computes together
    at: float  # seconds, on the clock of `now`


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request counts for the choice."""

    door: Door
    affinity: (
        bytes | None
    )  # equal for requests that share the beginning of their prompt and their caller; None: no matter
    caller: str  # whom the request is held for, in fairness: the same for all requests of one caller
    may_wait: bool = True  # for a replica; health checks want to hear now that there is none


@dataclass(frozen=True, slots=True)
class Reply:
    """To one of Envoy's questions, over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Secured:
    """How a replica is spoken to over TLS."""

    context: SSLContext
    name: str  # in its certificate


class Through(StrEnum):
    """Why a request passes through Python instead of Envoy alone."""

    FALLBACK = "Fallback"  # another model answers where this one is unsure
    PROGRESS = "Progress"  # its client hears how long it waits, and of a replica that dies


class Sureness(StrEnum):
    """What became of an answer that another model may give instead: label of the metrics."""

    SURE = "Sure"  # it is the answer
    UNSURE = "Unsure"  # the other model's is
    KEPT = "Kept"  # unsure, and the other model did not answer


class Reason(StrEnum):
    """Why a request went where it went, or nowhere: label of the metrics, and part of each refusal."""

    AFFINITY = "Affinity"  # to the replica that has its prompt's beginning
    LEAST_WAIT = "LeastWait"  # that replica has more to do than its share, or the prompt has no known beginning
    BROKEN = "Broken"  # a replica died while it answered; only where the answer passes through Python
    NO_REPLICA = "NoReplica"  # held until one is ready
    HELD_TOO_LONG = "HeldTooLong"
    TOO_MANY_HELD = "TooManyHeld"
    DRAINING = "Draining"  # this router is going


@dataclass(frozen=True, slots=True)
class Pick:
    endpoints: tuple[Endpoint, ...]  # the first, and in which order to try others before a first byte came back
    reason: Reason
    is_mirrored: bool = False  # a copy goes to a mirror


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    retry_after: float  # seconds
    message: str
