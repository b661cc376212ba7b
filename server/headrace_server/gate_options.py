"""The part of `headrace serve`'s command line about what the release gate said of the model. docs/gate.md"""

import argparse
from pathlib import Path

from headrace_server.config import GateConfig, Task
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.gate.options import serve_options
from headrace_server.gate.report import public_key_of_line


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the release gate (docs/gate.md)").add_argument
    add(
        "--gate-report",
        type=Path,
        metavar="FILE",
        help="load the model only if this report of `headrace gate run` lets it through, served as it was measured",
    )
    add(
        "--gate-public-key",
        action="append",
        default=[],
        metavar="KEY",
        help="Ed25519, the line within its PEM; the owner must have signed that report; repeatable: any of them",
    )


def gate_from(options: argparse.Namespace) -> GateConfig | None:
    """Raises ModelRefused naming the option."""
    if options.gate_report is None:
        if options.gate_public_key:
            raise ModelRefused("--gate-public-key: nothing is signed without --gate-report; name the report")
        return None
    _refuse_what_no_gate_measures(options)
    for line in options.gate_public_key:
        try:
            public_key_of_line(line)
        except BadFile as broken:
            remedy = "give the second line of: openssl pkey -in KEY -pubout"
            raise ModelRefused(f"--gate-public-key={line}: {broken}; {remedy}") from broken
    return GateConfig(options.gate_report, tuple(options.gate_public_key), tuple(serve_options(options)))


def _refuse_what_no_gate_measures(options: argparse.Namespace) -> None:
    if options.task is Task.RERANK:
        raise ModelRefused("--gate-report: the gate measures models that generate or embed, not rank; leave it out")
    if options.lora:
        raise ModelRefused("--lora: no gate has measured an adapter; leave it out, or --gate-report")
