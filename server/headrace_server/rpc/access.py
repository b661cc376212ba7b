"""What config.AccessConfig asks for, made from its files: who may pass the doors, and over what."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc import api_keys, tls
from headrace_server.rpc.certificate_end import first_end
from headrace_server.rpc.gate import Gate
from headrace_server.rpc.revocation import Revoked, load_revoked
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
    revoked = _revoked(config.tls, metrics)
    gate = Gate(keys, certificates=asks_certificates, wall_clock=wall_clock, revoked=revoked)
    watched: tuple[Watched[Any], ...] = tuple(each for each in (keys, revoked) if each is not None)
    if config.tls is None:
        return Access(gate, watched)
    files = config.tls
    certificates = _certificates(files, metrics)
    return Access(
        gate, (*watched, certificates), tls.http_context(files, certificates), tls.grpc_credentials(files, certificates)
    )


def _certificates(files: TlsFiles, metrics: ServerMetrics) -> Watched[tls.Tls]:
    def load() -> tls.Tls:
        found = tls.load_tls(files)
        metrics.certificate_expires_timestamp_seconds.clear()
        for file, path in (("certificate", files.certificate), ("client_ca", files.client_ca)):
            if path is not None and (end := first_end(path)) is not None:
                metrics.certificate_expires_timestamp_seconds.labels(file).set(end)
        return found

    return Watched(FileKind.TLS, tls.paths(files), load, metrics)


def _revoked(files: TlsFiles | None, metrics: ServerMetrics) -> Watched[Revoked] | None:
    if files is None or files.client_crl is None or files.client_ca is None:
        return None
    lists, authorities = files.client_crl, files.client_ca

    def load() -> Revoked:
        found = load_revoked(lists, authorities)
        metrics.crl_expires_timestamp_seconds.clear()
        for authority, seconds in found.expires.items():
            metrics.crl_expires_timestamp_seconds.labels(authority).set(seconds)
        return found

    return Watched(FileKind.CRL, [lists, authorities], load, metrics)


def _keys(path: Path, metrics: ServerMetrics) -> Watched[api_keys.Keys]:
    def load() -> api_keys.Keys:
        try:
            return api_keys.parse(path.read_text(), f"--api-keys {path}")
        except UnicodeDecodeError as error:
            raise ModelRefused(f"--api-keys {path}: is no text: {error}") from error
        except OSError as error:
            raise ModelRefused(f"--api-keys {path}: {error.strerror}; name a file that the server can read") from error

    return Watched(FileKind.API_KEYS, [path], load, metrics)
