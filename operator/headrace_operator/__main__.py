"""Composition root of `headrace operator`: command line and environment to Settings, signals, exit status."""

import argparse
import asyncio
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from headrace_operator.settings import Settings

ED25519 = re.compile("MCowBQYDK2VwAyEA[A-Za-z0-9+/]{43}=")  # the words for the kind of key, and 32 bytes: base64 of DER
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def register(parser: argparse.ArgumentParser) -> None:
    """Reconcile InferenceDeployments: keep them warm, scale them, and say why."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--namespace", action="append", default=[], dest="namespaces", help="watch this one; repeatable")
    where.add_argument("--all-namespaces", action="store_true", help="watch all; needs cluster-wide rights")
    parser.add_argument("--server-image", required=True, help="runs when a manifest names no image")
    parser.add_argument("--router-image", help="runs for spec.routing.mode Headrace; without it, there is none")
    parser.add_argument("--router-role", default="headrace-router", help="a ClusterRole with what a router may read")
    parser.add_argument(
        "--gpu-budget", action="append", type=gpu_budget, default=[], dest="gpu_budgets", metavar="NAMESPACE=GPUS",
        help="GPUs that the deployments of a namespace may grow to together; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--gate-public-key", action="append", type=gate_key, default=[], dest="gate_keys", metavar="KEY",
        help="Ed25519, the line within its PEM: its owner may sign the gate's report that a manifest names; repeatable",
    )  # fmt: skip
    parser.add_argument("--lease-name", default="headrace", help="the Lease that elects the leader")
    parser.add_argument("--lease-namespace", required=True)
    parser.add_argument("--identity", default=socket.gethostname(), help="holder of the Lease")
    parser.add_argument("--interval", type=float, default=2.0, help="most seconds between two looks at an object")
    parser.add_argument("--host", default="127.0.0.1", help="address of /metrics, /healthz, /readyz")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--watch-nodes", action="store_true", help="replace a pod before its node goes")
    parser.add_argument("--kubeconfig", type=Path, help="instead of the pod's service account")
    parser.set_defaults(run=run)


def gpu_budget(text: str) -> tuple[str, int]:
    """Raises ArgumentTypeError."""
    namespace, separator, gpus = text.partition("=")
    if not (namespace and separator and gpus.isdigit()):
        raise argparse.ArgumentTypeError(f"must be NAMESPACE=GPUS such as team-a=8, not {text!r}")
    return namespace, int(gpus)


def gate_key(text: str) -> str:
    """Raises ArgumentTypeError."""
    if not ED25519.fullmatch(text):
        remedy = "give the second line of: openssl pkey -in KEY -pubout"
        raise argparse.ArgumentTypeError(f"must be an Ed25519 public key, not {text!r}; {remedy}")
    return text


def run(options: argparse.Namespace) -> int:
    environ = os.environ  # noqa: TID251 - the one place that reads it
    settings = Settings(
        namespaces=tuple(options.namespaces),
        server_image=options.server_image,
        lease_name=options.lease_name,
        lease_namespace=options.lease_namespace,
        identity=options.identity,
        interval=options.interval,
        host=options.host,
        http_port=options.http_port,
        service_account=Path(environ.get("HEADRACE_SERVICE_ACCOUNT_DIR", SERVICE_ACCOUNT)),
        watch_nodes=options.watch_nodes,
        kubeconfig=options.kubeconfig,
        router_image=options.router_image,
        router_role=options.router_role,
        gpu_budgets=dict(options.gpu_budgets),
        gate_keys=tuple(options.gate_keys),
    )
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_until_told(settings, environ))


async def _until_told(settings: Settings, environ: Mapping[str, str]) -> int:
    """0 after SIGTERM or SIGINT; a failure is logged and ends with 1, and Kubernetes restarts us."""
    from headrace_operator.process import Process  # noqa: PLC0415 - `headrace --help` must not wait for Kopf

    loop = asyncio.get_running_loop()
    work = asyncio.create_task(Process(settings, environ).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return 0
    except BaseException:
        logging.getLogger(__name__).exception("the operator ends")
        return 1
    return 0


if __name__ == "__main__":
    own = argparse.ArgumentParser(prog="headrace operator", description=register.__doc__)
    register(own)
    arguments = own.parse_args()
    sys.exit(arguments.run(arguments))
