"""An InferenceDeployment of a cluster, for `headrace simulate --from-cr`."""

import argparse
from collections.abc import Mapping
from typing import Any

from headrace_operator.errors import OperatorError
from headrace_operator.tools.connection import Connection, find, run


class NotFetched(OperatorError):
    """The object could not be read; the reason is on standard error already."""


def fetched(options: argparse.Namespace) -> Mapping[str, Any]:
    """Raises NotFetched."""
    found: list[Mapping[str, Any]] = []

    async def work(connection: Connection, options: argparse.Namespace) -> int:
        found.append(await find(connection, options.from_cr))
        return 0

    if run(work, options) or not found:
        raise NotFetched(f"--from-cr {options.from_cr}: the object could not be read")
    return found[0]
