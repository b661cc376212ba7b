"""The words and options of `headrace simulate` and `headrace replay`. Imports nothing heavy."""

import argparse
from pathlib import Path

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import duration

EVERYBODY = "headrace,hpa-waiting,hpa-concurrency,hpa-queue-wait,kpa,keda,ray,wva-v1,wva-v2,dynamo,aibrix"


def simulate(parser: argparse.ArgumentParser) -> None:
    """Play recorded requests through autoscalers: who waits, for how many replica-hours?"""
    load = parser.add_argument_group("load")
    load.add_argument(
        "--trace", type=Path, required=True, metavar="FILE", help="Azure's or BurstGPT's .csv, Mooncake's .jsonl"
    )
    load.add_argument("--scale", type=positive, default=1.0, metavar="X", help="times the rate (default %(default)g)")
    load.add_argument(
        "--from", dest="begin", type=seconds, default=0.0, metavar="TIME", help="skip so much of the trace"
    )
    load.add_argument("--for", dest="length", type=seconds, metavar="TIME", help="and take so much (default: all)")
    load.add_argument(
        "--lead-in", type=seconds, default=600.0, metavar="TIME",
        help="play the first part once before, unmeasured, so that nobody is judged on his start (default 10m)",
    )  # fmt: skip
    who = parser.add_argument_group("policies")
    who.add_argument(
        "--policy", default=EVERYBODY, metavar="NAME,...",
        help="also oracle (knows the future), headrace-one (keeps one replica) and static:N; default: %(default)s",
    )  # fmt: skip
    who.add_argument(
        "--min-replicas", type=count, metavar="N",
        help="default 4; with 0 Headrace's last replica may leave, and headrace-one stands beside it",
    )  # fmt: skip
    who.add_argument("--max-replicas", type=whole, metavar="N", help="default 64")
    who.add_argument(
        "--start-replicas", type=whole, metavar="N", help="that serve at the beginning (default: the minimum)"
    )
    who.add_argument("--slo", type=seconds, default=1.0, metavar="TIME", help="longest good queue wait (default 1s)")
    who.add_argument(
        "--from-cr", metavar="NAME", help="bounds, targets and what is known of a replica, of a live object"
    )
    who.add_argument(
        "--idle-timeout", type=seconds, metavar="TIME", help="without a request until the last one leaves (default 10m)"
    )
    _add_place(parser)
    _add_routers(parser)
    how = parser.add_argument_group("replicas and metrics")
    how.add_argument("--cold-start", type=seconds, default=90.0, metavar="TIME", help="order to Ready (default 90s)")
    how.add_argument("--replica", type=Path, metavar="FILE", help="JSON of another replica, fitted or written")
    how.add_argument(
        "--routing", choices=["two-choices", "random", "least", "router"],
        help="how a replica is picked (default two-choices, and router where there are some)",
    )  # fmt: skip
    how.add_argument("--gpus", type=whole, metavar="N", help="replicas that find a GPU (default: all)")
    how.add_argument(
        "--metrics-delay", type=seconds, default=0.0, metavar="TIME", help="age of every answer (default 0s)"
    )
    how.add_argument(
        "--metrics-loss", type=share, default=0.0, metavar="SHARE", help="of the answers, 0 to 1 (default 0)"
    )
    how.add_argument("--interval", type=seconds, default=2.0, metavar="TIME", help="of Headrace's looks (default 2s)")
    how.add_argument("--seed", type=int, default=1, help="of every chance (default %(default)s)")
    out = parser.add_argument_group("result")
    out.add_argument("--json", metavar="FILE", help="machine, work and rows; - is standard output (default: a table)")
    out.add_argument("--plot", type=Path, metavar="FILE", help="replicas and queues over time: .html, .svg or .png")
    out.add_argument("--jobs", type=whole, default=1, metavar="N", help="policies at a time (default %(default)s)")
    parser.set_defaults(run=_simulate)


def replay(parser: argparse.ArgumentParser) -> None:
    """Decide again what an object's status recorded: does it decide the same, and what would another policy?"""
    parser.add_argument(
        "filename", type=Path, metavar="STATUS.json", help="an object, or its status alone; YAML will do"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="decide with another policy, e.g. utilization=80%% or maxReplicas=32; repeatable",
    )  # fmt: skip
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="json is for scripts")
    parser.set_defaults(run=_replay)


def seconds(text: str) -> float:
    """Raises ArgumentTypeError."""
    try:
        return duration(text, "it")
    except InvalidSpec:
        raise argparse.ArgumentTypeError(f"must be a duration like 500ms, 90s or 10m, not {text!r}") from None


def positive(text: str) -> float:
    """Raises ArgumentTypeError."""
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def share(text: str) -> float:
    """Raises ArgumentTypeError."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return number


def whole(text: str) -> int:
    """Raises ArgumentTypeError."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """Raises ArgumentTypeError."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 included, not {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _add_routers(parser: argparse.ArgumentParser) -> None:
    routers = parser.add_argument_group("routers, which hold requests while no replica is ready")
    routers.add_argument(
        "--routers", type=whole, metavar="N", help="default: none, and 2 where the minimum is 0 or the object has some"
    )
    routers.add_argument("--hold-requests", type=count, metavar="N", help="that each of them holds (default 1000)")
    routers.add_argument("--hold-timeout", type=seconds, metavar="TIME", help="and for how long (default 5m)")


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_argument_group("which cluster, for --from-cr, as kubectl has it")
    place.add_argument("-n", "--namespace", help="default: the context's")
    place.add_argument("--context", help="default: the kubeconfig's current one")
    place.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, or ~/.kube/config")


def _simulate(options: argparse.Namespace) -> int:
    from headrace_operator.simulate.command import simulate as work  # noqa: PLC0415 - only when it is done

    return work(options)


def _replay(options: argparse.Namespace) -> int:
    from headrace_operator.simulate.replays import replay as work  # noqa: PLC0415 - only when it is done

    return work(options)
