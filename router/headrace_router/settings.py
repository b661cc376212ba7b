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
class Tls:
    """Files in PEM, read again when they change."""

    own: tuple[Path, Path] | None = None  # certificate, with its chain, and key of both doors; None: plain text
    replica_ca: Path | None = None  # who signs the replicas' certificates; None: replicas speak plain text
    replica_name: str = ""  # that their certificates must have


@dataclass(frozen=True, slots=True)
class Model:
    """One of those that this router serves; most routers serve one, which has no name."""

    name: str
    replicas: Replicas | None  # None: those of `fixed`
    fixed: Found
    cost_per_hour: float = 0.0  # of one replica, in whatever currency


@dataclass(frozen=True, slots=True)
class Settings:
    listening: Listening
    leaving: Leaving
    terms: Terms
    models: tuple[Model, ...]
    rules: Rules
    guidance: Guidance  # until the operator says something
    tls: Tls
    kubeconfig: Path | None  # None: the pod's service account
    service_account: Path
