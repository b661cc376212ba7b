"""The part of `headrace serve`'s command line about answers that do not depend on neighbours."""

import argparse

from headrace_server.config import Task
from headrace_server.errors import ModelRefused


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-invariant",
        action="store_true",
        help="no bit of an answer depends on what else is computed; slower, on a CPU: docs/batch-invariance.md",
    )


def batch_invariant_from(options: argparse.Namespace) -> bool:
    """Raises ModelRefused."""
    if options.batch_invariant and options.task is not Task.GENERATE:
        raise ModelRefused(f"--batch-invariant is for --task=generate, not {options.task}; leave it out")
    return bool(options.batch_invariant)
