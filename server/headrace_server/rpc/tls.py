"""TLS of both doors, from files that may be replaced while the server runs: new connections get the new ones."""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from headrace_server.config import TlsFiles
from headrace_server.errors import ModelRefused, Unauthenticated
from headrace_server.rpc.identity import Identity, check_tenant
from headrace_server.rpc.watched import Watched


@dataclass(frozen=True, slots=True)
class Tls:
    context: ssl.SSLContext  # for HTTP
    grpc: grpc.ServerCertificateConfiguration


def load_tls(files: TlsFiles) -> Tls:
    """Raises ModelRefused naming the option."""
    certificate, key = _read(files.certificate, "--tls-cert"), _read(files.key, "--tls-key")
    authority = None if files.client_ca is None else _read(files.client_ca, "--tls-client-ca")
    configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], authority)
    return Tls(_context(files), configuration)


def paths(files: TlsFiles) -> list[Path]:
    return [path for path in (files.certificate, files.key, files.client_ca) if path is not None]


def http_context(files: TlsFiles, current: Watched[Tls]) -> ssl.SSLContext:
    """For the listener. Each handshake goes on with the context of the files as they are then."""

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = current.value.context

    context = _context(files)
    context.sni_callback = choose
    return context


def grpc_credentials(files: TlsFiles, current: Watched[Tls]) -> grpc.ServerCredentials:
    """Likewise: gRPC asks for the certificates in each handshake."""
    return grpc.dynamic_ssl_server_credentials(
        current.value.grpc, lambda: current.value.grpc, require_client_authentication=files.client_ca is not None
    )


def http_certificate_identity(peer: Mapping[str, Any] | None) -> Identity:
    """`peer`: as ssl.SSLObject.getpeercert tells it. Raises Unauthenticated."""
    names: dict[str, list[str]] = {}
    for kind, name in (peer or {}).get("subjectAltName", ()):
        names.setdefault(kind, []).append(name)
    common = [value for part in (peer or {}).get("subject", ()) for kind, value in part if kind == "commonName"]
    return _identity(names.get("URI", []), names.get("DNS", []), common)


def grpc_certificate_identity(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """`auth_context`: as grpc.ServicerContext.auth_context tells it. Raises Unauthenticated."""

    def names(kind: str) -> list[str]:
        return [name.decode(errors="replace") for name in auth_context.get(kind, ())]

    return _identity(names("peer_uri"), names("peer_dns"), names("x509_common_name"))


def http_certificate(connection: ssl.SSLObject | None) -> bytes:
    """As DER. Raises Unauthenticated."""
    found = None if connection is None else connection.getpeercert(binary_form=True)
    if found is None:
        raise Unauthenticated("the connection has shown no client certificate")
    return found


def grpc_certificate(auth_context: Mapping[str, Iterable[bytes]]) -> bytes:
    """As PEM. Likewise."""
    found = next(iter(auth_context.get("x509_pem_cert", ())), None)
    if found is None:
        raise Unauthenticated("the connection has shown no client certificate")
    return found


def _identity(uris: list[str], hosts: list[str], common: list[str]) -> Identity:
    """The first name of the most specific kind: a URI, as SPIFFE has it, then DNS, then the subject's common name."""
    name = next(iter((*uris, *hosts, *common)), None)
    if name is None:
        raise Unauthenticated("the client certificate names nobody: no URI, no DNS name, no common name")
    if trouble := check_tenant(name):
        raise Unauthenticated(f"the name in the client certificate {trouble}")
    return Identity(name)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # 1.3 where certificates identify callers: 1.2 would let a session of a withdrawn certificate be resumed.
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if files.client_ca is None else ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: every connection shows its certificate
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ModelRefused(
            f"--tls-cert {files.certificate}, --tls-key {files.key}: are no certificate and its key: {error}"
        ) from error
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ModelRefused(f"--tls-client-ca {files.client_ca}: holds no certificate: {error}") from error
    return context


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{option} {path}: {error.strerror}; name a PEM file that the server can read") from error
