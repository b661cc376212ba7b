"""`kubectl headrace …`: kubectl runs the program kubectl-headrace from the PATH with the words that follow."""

import argparse
import sys
from collections.abc import Sequence

from headrace_operator.tools.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one tool. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="kubectl headrace", description="Look at InferenceDeployments and steer them."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, register in COMMANDS.items():
        summary = (register.__doc__ or "").strip()
        register(commands.add_parser(name, help=summary, description=summary))
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return int(options.run(options))
