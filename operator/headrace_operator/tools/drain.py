"""`headrace drain`: tells the operator that a pod will go, so that its replacement is Ready before it leaves."""

import argparse
import sys
import time

from headrace_operator import kube
from headrace_operator.decide import manifests
from headrace_operator.decide.conditions import timestamp
from headrace_operator.kube import KubeError
from headrace_operator.service import Mode
from headrace_operator.tools.connection import Connection, ToolFailed, find


async def drain(connection: Connection, options: argparse.Namespace) -> int:
    name, pod = options.name, options.pod
    body = await find(connection, name)
    if body["spec"].get("autoscaling", {}).get("mode") == Mode.SHADOW:
        raise ToolFailed(f"{name} is in mode Shadow, in which no pod is touched; `headrace resume {name}` first")
    path = kube.pods(connection.namespace, pod)
    found = await _pod(connection, path, name, pod)
    asked = {manifests.DRAIN_REQUESTED_ANNOTATION: timestamp(time.time())}  # noqa: TID251 - the edge that reads the clock
    await connection.api.merge(path, {"metadata": {"uid": found["metadata"]["uid"], "annotations": asked}})
    sys.stdout.write(
        f"{pod}: asked to drain; the operator starts another pod first. "
        f"`headrace status {name} -n {connection.namespace}` shows how far it is\n"
    )
    return 0


async def _pod(connection: Connection, path: str, name: str, pod: str) -> kube.Body:
    try:
        found = await connection.api.get(path)
    except KubeError as error:
        if error.status != 404:
            raise
        found = {"metadata": {}}
    if found["metadata"].get("labels", {}).get(manifests.DEPLOYMENT_LABEL) != name:
        raise ToolFailed(f"{name} has no pod {pod}; `headrace status {name}` lists its pods")
    return found
