"""The part of `headrace serve`'s command line that says who may ask. Nobody is let in unknown by oversight."""

import argparse
from ipaddress import ip_address
from pathlib import Path

from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.errors import ModelRefused


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who may ask (docs/security.md)").add_argument
    add(
        "--api-keys", type=Path, metavar="FILE", help="of `headrace key new` lines; every request needs one of its keys"
    )
    add("--tls-cert", type=Path, metavar="PEM", help="certificate chain of both doors; read again when it changes")
    add("--tls-key", type=Path, metavar="PEM", help="its private key")
    add("--tls-client-ca", type=Path, metavar="PEM", help="every client must show a certificate of this authority")
    add("--tls-client-crl", type=Path, metavar="PEM", help="its lists of certificates that count no more")
    add(
        "--allow-unauthenticated",
        action="store_true",
        help="answer whoever reaches an address other than this machine's own, without keys or client certificates",
    )
    add(
        "--trust-tenant-header",
        action="store_true",
        help="believe x-headrace-tenant; only behind a gateway that sets it",
    )


def access_from(options: argparse.Namespace) -> AccessConfig:
    """Raises ModelRefused naming the option."""
    access = AccessConfig(options.api_keys, _tls(options))
    if not (access.authenticates or options.allow_unauthenticated or _is_own(options.host)):
        raise ModelRefused(
            f"--host {options.host}: others reach it, and anybody would be answered; give --api-keys or "
            "--tls-client-ca, or say --allow-unauthenticated where only the right ones can reach it"
        )
    return access


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    if options.tls_client_crl is not None and options.tls_client_ca is None:
        raise ModelRefused("--tls-client-crl: needs --tls-client-ca, the authority whose certificates it takes back")
    if options.tls_cert is None and options.tls_key is None:
        if options.tls_client_ca is not None:
            raise ModelRefused("--tls-client-ca: needs --tls-cert and --tls-key, the server's own certificate and key")
        return None
    if options.tls_cert is None or options.tls_key is None:
        missing = "--tls-cert" if options.tls_cert is None else "--tls-key"
        raise ModelRefused(f"{missing}: is missing; --tls-cert and --tls-key go together")
    return TlsFiles(options.tls_cert, options.tls_key, options.tls_client_ca, options.tls_client_crl)


def _is_own(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
