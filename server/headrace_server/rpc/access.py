"""What config.AccessConfig asks for, made from its files: who may pass the doors, and over what."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from headrace_server.config import AccessConfig
from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc import api_keys, tls
from headrace_server.rpc.gate import Gate
from headrace_server.rpc.watched import FileKind, Watched


@dataclass(frozen=True, slots=True)
class Access:
    gate: Gate
    watched: tuple[Watched[Any], ...]  # to be looked at again and again
    http_tls: ssl.SSLContext | None = None  # None: plain text, as of the other
    grpc_tls: grpc.ServerCredentials | None = None


def access(config: AccessConfig, metrics: ServerMetrics, wall_clock: Callable[[], float]) -> Access:
    """`wall_clock` gives seconds since 1970. Raises ModelRefused."""
    keys = None if config.api_keys is None else _keys(config.api_keys, metrics)
    asks_certificates = config.tls is not None and config.tls.client_ca is not None
    gate = Gate(keys, certificates=asks_certificates, wall_clock=wall_clock)
    watched: tuple[Watched[Any], ...] = () if keys is None else (keys,)
    if config.tls is None:
        return Access(gate, watched)
    files = config.tls
    certificates = Watched(FileKind.TLS, tls.paths(files), lambda: tls.load_tls(files), metrics)
    return Access(
        gate, (*watched, certificates), tls.http_context(files, certificates), tls.grpc_credentials(files, certificates)
    )


def _keys(path: Path, metrics: ServerMetrics) -> Watched[api_keys.Keys]:
    def load() -> api_keys.Keys:
        try:
            return api_keys.parse(path.read_text(), f"--api-keys {path}")
        except UnicodeDecodeError as error:
            raise ModelRefused(f"--api-keys {path}: is no text: {error}") from error
        except OSError as error:
            raise ModelRefused(f"--api-keys {path}: {error.strerror}; name a file that the server can read") from error

    return Watched(FileKind.API_KEYS, [path], load, metrics)
