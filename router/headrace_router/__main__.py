"""Composition root of `headrace route`: command line and environment to Settings, signals, exit status."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from headrace_router.errors import BadArguments, RouterError

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
GRPC_PORT, HTTP_PORT = 50051, 8000  # of the replicas, and ours unless told otherwise
USAGE = 2


def register(parser: argparse.ArgumentParser) -> None:
    """One address in front of a deployment's replicas: by least wait, by prompt, held while none is ready."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--deployment", metavar="NAMESPACE/NAME", help="the replicas of this InferenceDeployment")
    where.add_argument(
        "--replica", action="append", default=[], dest="replicas", metavar="ADDRESS[:GRPC_PORT:HTTP_PORT[:LOAD_PORT]]",
        help="this one; repeatable, for servers that no Kubernetes runs. LOAD_PORT: where /load is, if not at HTTP",
    )  # fmt: skip
    where.add_argument("--models", type=Path, metavar="FILE", help="several models, and which request goes to which")
    parser.add_argument(
        "--mirror", action="append", default=[], dest="mirrors", metavar="ADDRESS[:GRPC_PORT:HTTP_PORT]",
        help="beside --replica: this one gets copies of requests, and its answers are thrown away; repeatable",
    )  # fmt: skip
    parser.add_argument("--mirror-share", default="100%", metavar="PERCENT", help="of the requests that are copied")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--grpc-port", type=int, default=GRPC_PORT)
    parser.add_argument("--http-port", type=int, default=HTTP_PORT)
    parser.add_argument("--admin-port", type=int, default=9090, help="/metrics, /healthz, /readyz")
    parser.add_argument("--hold-requests", type=int, default=1000, help="most requests held while no replica is ready")
    parser.add_argument("--hold-seconds", type=float, default=300.0, help="longest that one is held")
    parser.add_argument("--start-seconds", type=float, default=60.0, help="said to whom is refused while none is ready")
    parser.add_argument("--most-connections", type=int, default=10_000, help="of clients")
    parser.add_argument("--threads", type=int, default=2, help="of Envoy")
    parser.add_argument(
        "--linger", type=float, default=3.0, help="seconds after SIGTERM in which new requests still come"
    )
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after SIGTERM for streams that run")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="both doors speak TLS: chain, in PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--replica-ca", type=Path, metavar="FILE", help="replicas speak TLS: who signs for them, PEM")
    parser.add_argument(
        "--replica-name", metavar="DNS_NAME",
        help="in their certificates; NAME.NAMESPACE.svc of --deployment unless told otherwise",
    )  # fmt: skip
    parser.add_argument("--kubeconfig", type=Path, help="instead of the pod's service account")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import uvloop  # noqa: PLC0415 - `headrace --help` must not wait for it

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return uvloop.run(_until_told(options))
    except BadArguments as error:
        sys.stderr.write(f"headrace route: {error}\n")
        return USAGE


async def _until_told(options: argparse.Namespace) -> int:
    """0 after SIGTERM or SIGINT; a failure is logged and ends with 1, and Kubernetes restarts us."""
    from headrace_router.arguments import settings  # noqa: PLC0415 - likewise
    from headrace_router.process import Process  # noqa: PLC0415

    environ = os.environ  # noqa: TID251 - the one place that reads it
    service_account = Path(environ.get("HEADRACE_SERVICE_ACCOUNT_DIR", SERVICE_ACCOUNT))
    process = Process(settings(options, service_account), environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.leave)
    try:
        await process.run()
    except ExceptionGroup as failed:
        known, others = failed.split(RouterError)
        if others is not None or known is None:
            raise
        for error in known.exceptions:  # said whole in its message
            logging.getLogger(__name__).error("the router ends: %s", error)  # noqa: TRY400
        return USAGE if known.subgroup(BadArguments) else 1
    return 0


if __name__ == "__main__":
    own = argparse.ArgumentParser(prog="headrace route", description=register.__doc__)
    register(own)
    arguments = own.parse_args()
    sys.exit(arguments.run(arguments))
