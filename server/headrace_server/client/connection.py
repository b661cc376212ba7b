"""How every client reaches a server: its address, the caller's key, and certificates. The one place that knows."""

import argparse
import os
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc

KEY_VARIABLE = "HEADRACE_API_KEY"
# Without it channels of one process with the same target share one connection.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
LARGEST_REPLY = 64 * 2**20  # bytes; gRPC's 4 MiB hold the vectors of 2,700 texts at 384 dimensions


@dataclass(frozen=True, slots=True)
class Connection:
    api_key: str | None = None
    ca: Path | None = None  # PEM of the authority that signed the server's certificate; None: the system's
    certificate: Path | None = None  # PEM, with its key: who the client is
    key: Path | None = None
    tls: bool = False  # of gRPC; HTTP has https://

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.api_key is None else (("authorization", f"Bearer {self.api_key}"),)

    def channel(self, address: str, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
        """`address`: HOST:PORT."""
        options = (*options, ("grpc.max_receive_message_length", LARGEST_REPLY))
        if not (self.tls or self.ca or self.certificate):
            return grpc.aio.insecure_channel(address, options=options)
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))
        return grpc.aio.secure_channel(address, credentials, options=options)

    def session(self, *, timeout: float, fresh_connections: bool = False) -> aiohttp.ClientSession:
        """`timeout`: seconds that a request may take."""
        context: ssl.SSLContext | bool = True
        if self.ca or self.certificate:
            context = ssl.create_default_context(cafile=self.ca)
        if isinstance(context, ssl.SSLContext) and self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=fresh_connections, ssl=context),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=10.0),
            headers=dict(self.metadata),
        )


PLAIN = Connection()


def add_connection_options(parser: argparse.ArgumentParser, *, default_target: str | None = None) -> None:
    """Where the server is, and how to reach it. `default_target`: None makes an address required."""
    where = parser.add_mutually_exclusive_group(required=default_target is None)
    shown = "" if default_target is None else " (default %(default)s)"
    where.add_argument("--target", default=default_target or "", metavar="HOST:PORT", help=f"gRPC address{shown}")
    where.add_argument("--http", default="", metavar="URL", help="base URL of an OpenAI API, instead of gRPC")
    add_credential_options(parser)


def add_credential_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--api-key-file", type=_first_line, metavar="FILE", help=f"holds the API key; or set ${KEY_VARIABLE}")
    add("--ca", type=_file, metavar="PEM", help="the authority of the server's certificate (default: the system's)")
    add("--cert", type=_file, metavar="PEM", help="the client's certificate, for a server that asks for one")
    add("--key", type=_file, metavar="PEM", help="its private key")
    add("--tls", action="store_true", help="gRPC over TLS with the system's authorities; --ca and --cert imply it")


def connection_from(options: argparse.Namespace) -> Connection:
    """Ends the process with status 2 when the options do not fit together."""
    if (options.cert is None) != (options.key is None):
        sys.stderr.write("headrace: --cert and --key belong together; give both\n")
        raise SystemExit(2)
    given = os.environ.get(KEY_VARIABLE) or None  # noqa: TID251 - the command-line edge
    return Connection(options.api_key_file or given, options.ca, options.cert, options.key, options.tls)


def base_url(url: str) -> str:
    """With or without the /v1 that OpenAI's SDK wants; HOST:PORT is plain HTTP."""
    return (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")


async def first_model(session: aiohttp.ClientSession, base: str) -> str:
    """The name of what the server lists first. Raises aiohttp.ClientError, also for what is no list of models."""
    async with session.get(f"{base}/v1/models") as response:
        response.raise_for_status()
        document: Any = await response.json(content_type=None)
    try:
        return str(document["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as strange:
        raise aiohttp.ClientError(f"{base}/v1/models holds no list of models; is it an OpenAI API?") from strange


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _file(word: str) -> Path:
    path = Path(word)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{word}: is no file")
    return path


def _first_line(word: str) -> str:
    """A key in an option would show in `ps`."""
    key = _file(word).read_text().strip()
    if not key or not key.isprintable() or not key.isascii():
        raise argparse.ArgumentTypeError(f"{word}: must hold one API key, in printable ASCII")
    return key
