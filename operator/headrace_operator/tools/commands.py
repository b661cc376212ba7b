"""The words and options of every tool. Imports nothing heavy: `headrace --help` reads the first lines from here."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

Register = Callable[[argparse.ArgumentParser], None]


def status(parser: argparse.ArgumentParser) -> None:
    """Show InferenceDeployments: replicas, queue wait, reason; with a NAME also pods and conditions."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="without it, all of the namespace")
    parser.add_argument("-A", "--all-namespaces", action="store_true")
    _add_output(parser)
    _add_place(parser)
    parser.set_defaults(run=_status)


def explain(parser: argparse.ArgumentParser) -> None:
    """Compute the last decision again from what the object recorded, and show every step of it."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", metavar="NAME")
    which.add_argument(
        "-f", "--filename", type=Path, metavar="FILE", help="YAML or JSON of one object; needs no cluster"
    )
    parser.add_argument("--change", action="store_true", help="the last decision that changed the number of replicas")
    _add_output(parser)
    _add_place(parser)
    parser.set_defaults(run=_explain)


def pause(parser: argparse.ArgumentParser) -> None:
    """Keep the number of replicas as it is: sets spec.autoscaling.mode to Paused."""
    _add_name(parser)
    parser.set_defaults(run=_set_mode, mode="Paused")


def resume(parser: argparse.ArgumentParser) -> None:
    """Let the queue decide again: sets spec.autoscaling.mode to Auto."""
    _add_name(parser)
    parser.add_argument("--mode", choices=["Auto", "External"], default="Auto", help="default: %(default)s")
    parser.set_defaults(run=_set_mode)


def shadow(parser: argparse.ArgumentParser) -> None:
    """Decide and say so, but touch no pod: sets spec.autoscaling.mode to Shadow."""
    _add_name(parser)
    parser.set_defaults(run=_set_mode, mode="Shadow")


def drain(parser: argparse.ArgumentParser) -> None:
    """Ask the operator to replace one pod: a new one first, then this one finishes what it has and goes."""
    _add_name(parser)
    parser.add_argument("pod", metavar="POD")
    parser.set_defaults(run=_drain)


def report(parser: argparse.ArgumentParser) -> None:
    """Write everything that a bug report needs into one file, without credentials."""
    _add_name(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .tar.gz; never overwritten")
    parser.add_argument(
        "--tail", type=int, default=500, metavar="LINES", help="last lines of each log (default %(default)s)"
    )
    parser.add_argument("--operator-namespace", default="headrace-system", help="default: %(default)s")
    parser.add_argument(
        "--operator-metrics", metavar="URL", help="where the API server may not fetch them, e.g. a port-forward"
    )
    parser.set_defaults(run=_report)


def ui(parser: argparse.ArgumentParser) -> None:
    """Serve a page that shows InferenceDeployments live, with every scaling and its reason; it changes nothing."""
    from headrace_operator.tools.ui.address import listen  # noqa: PLC0415 - of this command alone

    parser.add_argument(
        "--listen", type=listen, default="127.0.0.1:8899", metavar="ADDRESS:PORT",
        help="default %(default)s; on another address than loopback, whoever reaches it sees what you may see",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=positive, default=2.0, metavar="SECONDS", help="between two looks (default %(default)s)"
    )
    parser.add_argument("-A", "--all-namespaces", action="store_true")
    _add_place(parser)
    parser.set_defaults(run=_ui)


COMMANDS: dict[str, Register] = {
    "status": status,
    "explain": explain,
    "pause": pause,
    "resume": resume,
    "shadow": shadow,
    "drain": drain,
    "report": report,
    "ui": ui,
}


def positive(text: str) -> float:
    """Seconds above zero. Raises ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    _add_place(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="json is for scripts")


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_argument_group("which cluster, as kubectl has it")
    place.add_argument("-n", "--namespace", help="default: the context's")
    place.add_argument("--context", help="default: the kubeconfig's current one")
    place.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, or ~/.kube/config")


# The work is imported when it is done: Kubernetes' client takes half a second to load, and `--help` should not.


def _status(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.status import show  # noqa: PLC0415

    return run(show, options)


def _explain(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.explain import explain, explain_file  # noqa: PLC0415

    return explain_file(options) if options.filename else run(explain, options)


def _set_mode(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.mode import set_mode  # noqa: PLC0415

    return run(set_mode, options)


def _drain(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.drain import drain  # noqa: PLC0415

    return run(drain, options)


def _report(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.report import report  # noqa: PLC0415

    return run(report, options)


def _ui(options: argparse.Namespace) -> int:
    from headrace_operator.tools.connection import run  # noqa: PLC0415
    from headrace_operator.tools.ui.command import serve  # noqa: PLC0415

    return run(serve, options)
