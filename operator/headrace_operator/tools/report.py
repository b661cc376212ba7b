"""`headrace report`: one file for a bug report. A part that cannot be had is named with the reason."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any, TypeVar

import aiohttp
import yaml

from headrace_operator import kube
from headrace_operator.decide import manifests
from headrace_operator.decide.conditions import timestamp
from headrace_operator.kube import Body, KubeError
from headrace_operator.tools.bundle import Bundle
from headrace_operator.tools.connection import Connection, ToolFailed, find
from headrace_operator.tools.explain import explained
from headrace_operator.tools.redaction import Redaction

OPERATOR = "app.kubernetes.io/name=headrace-operator"
OPERATOR_PORT = 8080
T = TypeVar("T")


async def report(connection: Connection, options: argparse.Namespace) -> int:
    now = time.time()  # noqa: TID251 - the edge that reads the clock
    if options.output.exists():
        raise ToolFailed(f"{options.output} exists already; name another file")
    body = await find(connection, options.name)
    bundle = await _Collector(connection, options, body).collect(now)
    bundle.write(options.output, now)
    sys.stdout.write(
        f"{options.output}: {len(bundle.files)} files. Read them before you pass them on: README.txt first\n"
    )
    for what, why in bundle.missing.items():
        sys.stderr.write(f"note: without {what}: {why}\n")
    return 0


class _Collector:
    """Asks for one part after the other."""

    def __init__(self, connection: Connection, options: argparse.Namespace, body: Body) -> None:
        self._api = connection.api
        self._namespace = connection.namespace
        self._options = options
        self._body = body
        self._bundle = Bundle(f"headrace-{options.name}")

    async def collect(self, now: float) -> Bundle:
        documents = await self._documents()
        logs = await self._logs(documents["pods.yaml"], documents["operator-pods.yaml"])
        redaction = Redaction(documents.values())
        files = self._bundle.files
        files |= {name: yaml.safe_dump(redaction.document(found), sort_keys=False) for name, found in documents.items()}
        files |= {name: redaction.text(text) for name, text in logs.items()}
        files["explain.txt"] = redaction.text(explained(self._body, now))
        files["versions.json"] = json.dumps(await self._versions(), indent=2) + "\n"
        files["README.txt"] = _readme(self._options.name, self._bundle, now)
        return self._bundle

    async def _documents(self) -> dict[str, Any]:
        name, namespace = self._options.name, self._namespace
        mine = f"{manifests.DEPLOYMENT_LABEL}={name}"
        return {
            "object.yaml": self._body,
            "pods.yaml": await self._list("pods", kube.pods(namespace), labelSelector=mine),
            "revisions.yaml": await self._list("revisions", kube.revisions(namespace), labelSelector=mine),
            "events.yaml": self._related(await self._list("events", kube.events(namespace))),
            "operator-pods.yaml": await self._list(
                "the operator's pods", kube.pods(self._options.operator_namespace), labelSelector=OPERATOR
            ),
        }

    def _related(self, events: list[Body]) -> list[Body]:
        """Of the object and of its pods, whose names begin with its name."""
        name = self._options.name
        about = [event["involvedObject"] for event in events]
        return [
            event
            for event, what in zip(events, about, strict=True)
            if what.get("name") == name or (what.get("kind") == "Pod" and what.get("name", "").startswith(f"{name}-"))
        ]

    async def _logs(self, pods: list[Body], operators: list[Body]) -> dict[str, str]:
        texts = {f"logs/{pod['metadata']['name']}.log": await self._log(pod) for pod in pods}
        texts |= {
            f"logs/{pod['metadata']['name']}.previous.log": await self._log(pod, previous="true")
            for pod in pods
            if any(state.get("restartCount") for state in pod.get("status", {}).get("containerStatuses", ()))
        }
        for pod in operators:
            name = pod["metadata"]["name"]
            texts[f"operator/{name}.log"] = await self._log(pod)
            texts[f"operator/{name}.metrics.txt"] = await self._metrics(pod)
        if url := self._options.operator_metrics:
            texts["operator/metrics.txt"] = await self._try("the operator's metrics", _fetch(url), "")
        return {name: text for name, text in texts.items() if text}

    async def _list(self, what: str, path: str, **query: str) -> list[Body]:
        async def listed() -> list[Body]:
            return [item async for page in self._api.pages(path, **query) for item in page["items"]]

        return await self._try(what, listed(), [])

    async def _log(self, pod: Body, **query: str) -> str:
        metadata = pod["metadata"]
        path = f"{kube.pods(metadata['namespace'], metadata['name'])}/log"
        tail = str(self._options.tail)
        return await self._try(f"the log of {metadata['name']}", self._api.text(path, tailLines=tail, **query), "")

    async def _metrics(self, pod: Body) -> str:
        metadata = pod["metadata"]
        path = f"{kube.pods(metadata['namespace'], metadata['name'])}:{OPERATOR_PORT}/proxy/metrics"
        return await self._try(f"the metrics of {metadata['name']}", self._api.text(path), "")

    async def _versions(self) -> dict[str, str]:
        found = await self._try("the cluster's version", self._api.get("/version"), {})
        return {
            "headrace-operator": version("headrace-operator"),
            "kubernetes": found.get("gitVersion", "unknown"),
            "python": platform.python_version(),
        }

    async def _try(self, what: str, asked: Awaitable[T], instead: T) -> T:
        try:
            return await asked
        except (KubeError, aiohttp.ClientError, TimeoutError) as error:
            self._bundle.missing[what] = str(error) or type(error).__name__
            return instead


async def _fetch(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session, session.get(url) as answer:
        return await answer.text()


def _readme(name: str, bundle: Bundle, now: float) -> str:
    missing = [f"- {what}: {why}" for what, why in bundle.missing.items()] or ["- nothing"]
    return f"""What `headrace report` found out about the InferenceDeployment {name}, {timestamp(now)}.

object.yaml     the object with its status
explain.txt     its last decision, computed again
pods.yaml, revisions.yaml, events.yaml
logs/           the last lines of its servers
operator/, operator-pods.yaml
versions.json

Replaced by [redacted]: values of environment variables, names of secrets, annotations of others, hosts of private
registries, and whatever looks like a password, token or key, in logs, too. UIDs are numbered. A prompt that somebody
logged cannot be told from other text: read the files before you pass them on.

Could not be had:
{chr(10).join(missing)}
"""
