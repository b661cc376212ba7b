"""The command line of `headrace route` as Settings, each impossible wish refused by its flag."""

import argparse
import re
from pathlib import Path

from headrace_router.errors import BadArguments
from headrace_router.models_file import Listed, read
from headrace_router.observe.guidance import share
from headrace_router.observe.pods import GRPC_PORT, HTTP_PORT, Replicas
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import Terms
from headrace_router.pick.rules import Rules
from headrace_router.settings import Leaving, Listening, Model, Settings, Trust
from headrace_router.values import Endpoint, Found, Guidance, Ports

MOST_PORT = 65535
DNS_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # and no address: certificates have those elsewhere
ONLY = ""  # name of the model, where there is one
WITHOUT_CA = "{} is for replicas that speak TLS; give {}, too"


def settings(options: argparse.Namespace, service_account: Path) -> Settings:
    """Raises BadArguments."""
    for flag in ("grpc_port", "http_port", "admin_port"):
        _within(flag, getattr(options, flag), 0, MOST_PORT)
    _within("hold_requests", options.hold_requests, 0, 1_000_000)
    _within("hold_seconds", options.hold_seconds, 0, 3600)
    _within("start_seconds", options.start_seconds, 0, 3600)
    _within("most_connections", options.most_connections, 1, 1_000_000)
    _within("threads", options.threads, 1, 64)
    _within("linger", options.linger, 0, 600)
    _within("patience", options.patience, 0, 86400)
    if options.mirrors and not options.replicas:
        raise BadArguments("--mirror stands beside --replica; with --deployment the operator names the mirrors")
    models, rules = _models(options)
    return Settings(
        listening=Listening(
            options.host, options.grpc_port, options.http_port, options.admin_port, options.most_connections,
            options.threads,
        ),
        leaving=Leaving(options.linger, options.patience),
        terms=Terms(Limits(options.hold_requests, options.hold_seconds), options.start_seconds),
        models=models,
        rules=rules,
        guidance=Guidance(mirror_share=_share(options.mirror_share)),
        certificate=_certificate(options),
        kubeconfig=options.kubeconfig,
        service_account=service_account,
    )  # fmt: skip


def _within(flag: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadArguments(f"--{flag.replace('_', '-')} is {value:g}; must be from {least:g} to {most:g}")


def _models(options: argparse.Namespace) -> tuple[tuple[Model, ...], Rules]:
    if options.models is None:
        replicas = None if options.deployment is None else _deployment("--deployment", options.deployment)
        serving = tuple(_fixed("--replica", text) for text in options.replicas)
        mirrors = tuple(_fixed("--mirror", text) for text in options.mirrors)
        return (Model(ONLY, replicas, Found(serving, mirrors), trust=_told_trust(options, replicas)),), Rules((), ONLY)
    if options.replica_name and options.replica_ca is None:
        raise BadArguments(WITHOUT_CA.format("--replica-name", "--replica-ca"))
    file = read(options.models)
    return tuple(_listed(options, each) for each in file.models), file.rules


def _certificate(options: argparse.Namespace) -> tuple[Path, Path] | None:
    if (options.tls_cert is None) != (options.tls_key is None):
        raise BadArguments("--tls-cert and --tls-key belong together; give both")
    return None if options.tls_cert is None else (options.tls_cert, options.tls_key)


def _told_trust(options: argparse.Namespace, replicas: Replicas | None, name: str | None = None) -> Trust | None:
    """By the flags. `name`: that a model has beside them."""
    name = name or options.replica_name
    return _trust("--replica-ca", options.replica_ca, "--replica-name", name, replicas)


def _trust(
    authority_flag: str, authority: Path | None, name_flag: str, name: str | None, replicas: Replicas | None
) -> Trust | None:
    if authority is None:
        if name:
            raise BadArguments(WITHOUT_CA.format(name_flag, authority_flag))
        return None
    if name:
        return Trust(authority, _dns_name(name_flag, name))
    if replicas is None:
        raise BadArguments(f"{authority_flag} needs {name_flag}, the name in the replicas' certificates")
    return Trust(authority, f"{replicas.deployment}.{replicas.namespace}.svc")


def _dns_name(flag: str, text: str) -> str:
    if not DNS_NAME.fullmatch(text) or text.replace(".", "").isdigit():
        raise BadArguments(
            f"{flag} is {text!r}; must be the DNS name by which replicas are asked, such as a.default.svc"
        )
    return text


def _listed(options: argparse.Namespace, listed: Listed) -> Model:
    at = f"{options.models}: models.{listed.name}"
    replicas = None if listed.deployment is None else _deployment(f"{at}.deployment", listed.deployment)
    fixed = Found(tuple(_fixed(f"{at}.replicas", text) for text in listed.replicas))
    if listed.replica_ca is None and options.replica_ca is not None:
        trust = _told_trust(options, replicas, listed.replica_name)
    else:
        authority = None if listed.replica_ca is None else options.models.parent / listed.replica_ca
        trust = _trust(f"{at}.replicaCa", authority, f"{at}.replicaName", listed.replica_name, replicas)
    return Model(listed.name, replicas, fixed, listed.cost_per_hour, trust)


def _deployment(flag: str, text: str) -> Replicas:
    namespace, separator, name = text.partition("/")
    if not (namespace and separator and name) or "/" in name:
        raise BadArguments(f"{flag} is {text!r}; must be NAMESPACE/NAME such as default/scripture")
    return Replicas(namespace, name)


def _share(text: str) -> float:
    try:
        return share(text)
    except ValueError as error:
        raise BadArguments(f"--mirror-share: {error}") from error


def _fixed(flag: str, text: str) -> Endpoint:
    address, ports = _address_and_ports(flag, text)
    return Endpoint(uid=text, name=text, address=address, ports=ports)


def _address_and_ports(flag: str, text: str) -> tuple[str, Ports]:
    """ADDRESS, ADDRESS:GRPC:HTTP or ADDRESS:GRPC:HTTP:LOAD; an IPv6 address in brackets."""
    if text.startswith("["):
        address, separator, rest = text[1:].partition("]")
        words = rest.split(":")[1:] if separator and rest else []
    else:
        address, *words = text.split(":")
    if not words:
        return address, Ports(GRPC_PORT, HTTP_PORT, HTTP_PORT)
    numbers = [int(word) for word in words if word.isdigit() and 0 < int(word) <= MOST_PORT]
    if not address or len(numbers) != len(words) or len(words) not in (2, 3):
        raise BadArguments(f"{flag} is {text!r}; must be ADDRESS or ADDRESS:GRPC_PORT:HTTP_PORT[:LOAD_PORT]")
    return address, Ports(numbers[0], numbers[1], numbers[-1])
