"""`headrace pause`, `resume`, `shadow`: a person's own write of spec.autoscaling.mode. The operator never writes it."""

import argparse
import json
import sys
from typing import Any

from headrace_operator import kube
from headrace_operator.kube import Body
from headrace_operator.observe.fields import owners
from headrace_operator.tools.connection import FIELD_MANAGER, Connection, find

FIELD = ("spec", "autoscaling", "mode")
CLIENT_SIDE = "kubectl-client-side-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


async def set_mode(connection: Connection, options: argparse.Namespace) -> int:
    body = await find(connection, options.name)
    before = body["spec"].get("autoscaling", {}).get("mode")
    if before == options.mode:
        sys.stdout.write(f"{options.name}: mode is {before} already\n")
        return 0
    change = {"metadata": {"uid": body["metadata"]["uid"]}, "spec": {"autoscaling": {"mode": options.mode}}}
    await connection.api.merge(kube.objects(connection.namespace, options.name), change)
    sys.stdout.write(f"{options.name}: mode {before} -> {options.mode}\n")
    for other in _who_puts_it_back(body):
        sys.stderr.write(
            f"note: {other} wrote {'.'.join(FIELD)} before; if its manifest names the field, change it there, too, "
            "or the next apply puts it back\n"
        )
    return 0


def _who_puts_it_back(body: Body) -> set[str]:
    """Managers whose manifest may name it. Defaults count as written; `kubectl apply` notes what was."""
    others = owners(body, FIELD) - {FIELD_MANAGER}
    applied = json.loads(body["metadata"].get("annotations", {}).get(LAST_APPLIED, "{}"))
    return others if _at(applied, FIELD) is not None else others - {CLIENT_SIDE}


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
