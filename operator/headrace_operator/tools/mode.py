"""`headrace pause`, `resume`, `shadow`: a person's own write of spec.autoscaling.mode. The operator never writes it."""

import argparse
import sys

from headrace_operator import kube
from headrace_operator.observe.fields import owners
from headrace_operator.tools.connection import FIELD_MANAGER, Connection, find

FIELD = ("spec", "autoscaling", "mode")


async def set_mode(connection: Connection, options: argparse.Namespace) -> int:
    body = await find(connection, options.name)
    before = body["spec"].get("autoscaling", {}).get("mode")
    if before == options.mode:
        sys.stdout.write(f"{options.name}: mode is {before} already\n")
        return 0
    change = {"metadata": {"uid": body["metadata"]["uid"]}, "spec": {"autoscaling": {"mode": options.mode}}}
    await connection.api.merge(kube.objects(connection.namespace, options.name), change)
    sys.stdout.write(f"{options.name}: mode {before} -> {options.mode}\n")
    for other in owners(body, FIELD) - {FIELD_MANAGER}:
        sys.stderr.write(
            f"note: {other} wrote {'.'.join(FIELD)} before; if its manifest names the field, change it there, too, "
            "or the next apply puts it back\n"
        )
    return 0
