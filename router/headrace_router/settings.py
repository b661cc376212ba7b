"""What one router process is told, as values."""

from dataclasses import dataclass
from pathlib import Path

from headrace_router.observe.pods import Replicas
from headrace_router.pick.picker import Terms
from headrace_router.pick.rules import Rules
from headrace_router.values import Found, Guidance


@dataclass(frozen=True, slots=True)
class Listening:
    host: str
    grpc_port: int
    http_port: int
    admin_port: int  # /metrics, /healthz, /readyz
    most_connections: int  # of clients
    threads: int  # of Envoy


@dataclass(frozen=True, slots=True)
class Leaving:
    linger: float  # seconds after SIGTERM in which new requests still come, because not everybody knows yet
    patience: float  # seconds for the streams that run


@dataclass(frozen=True, slots=True)
class Trust:
    """What replicas that speak TLS have to show."""

    authority: Path  # PEM, read again when it changes: who signs their certificates
    name: str  # in each of them


@dataclass(frozen=True, slots=True)
class Model:
    """One of those that this router serves; most routers serve one, which has no name."""

    name: str
    replicas: Replicas | None  # None: those of `fixed`
    fixed: Found
    cost_per_hour: float = 0.0  # of one replica, in whatever currency
    trust: Trust | None = None  # None: its replicas speak plain text


@dataclass(frozen=True, slots=True)
class Settings:
    listening: Listening
    leaving: Leaving
    terms: Terms
    models: tuple[Model, ...]
    rules: Rules
    guidance: Guidance  # until the operator says something
    certificate: tuple[Path, Path] | None  # with its chain, and its key, PEM: of both doors; None: plain text
    kubeconfig: Path | None  # None: the pod's service account
    service_account: Path
