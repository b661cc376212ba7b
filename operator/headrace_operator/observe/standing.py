"""Services and disruption budgets: written once a generation, and again when a list shows that somebody touched them.

Writing each of them again every 30 s, to be sure, was all that the API server did for 500 deployments.
"""

import asyncio
import logging
from typing import Any

from headrace_operator import kube
from headrace_operator.kube import Body, Kube, KubeError

logger = logging.getLogger(__name__)
LOOK = 30.0  # seconds after which a Service that somebody deleted or changed is as it should be again
SERVICE, BUDGET = "Service", "PodDisruptionBudget"
Name = tuple[str, str, str]  # kind, namespace, name


class Standing:
    def __init__(self, api: Kube, namespaces: tuple[str, ...]) -> None:
        """`namespaces` to look into; none = all."""
        self._api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._written: dict[Name, tuple[int, str]] = {}  # resourceVersion, and what changes when somebody touches it
        self._touched: set[tuple[str, str]] = set()  # (namespace, name) of their InferenceDeployments

    async def run(self) -> None:
        """Lists for ever; what fails is tried again."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.look()
            except KubeError as error:
                logger.warning("cannot list Services and disruption budgets: %s", error)

    async def look(self) -> None:
        written = dict(self._written)  # what is written meanwhile is younger than the lists
        found: dict[Name, str] = {}
        versions = []
        for namespace in self._namespaces:
            for kind, path in ((SERVICE, kube.services(namespace)), (BUDGET, kube.disruption_budgets(namespace))):
                async for page in self._api.pages(path, labelSelector=kube.OWN_PODS):
                    versions.append(int(page["metadata"]["resourceVersion"]))
                    found |= {_name(kind, body): _mark(body) for body in page["items"]}
        for name, (version, mark) in written.items():
            if version <= min(versions) and found.get(name) != mark:
                self._touched.add(name[1:])

    def wrote(self, body: Body) -> None:
        """As the API server answered. What it is for is untouched from now on."""
        name = _name(body["kind"], body)
        self._written[name] = int(body["metadata"]["resourceVersion"]), _mark(body)
        self._touched.discard(name[1:])

    def is_touched(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self._touched

    def forget(self, namespace: str, name: str) -> None:
        """Of an InferenceDeployment that is gone."""
        self._touched.discard((namespace, name))
        for kind in (SERVICE, BUDGET):
            self._written.pop((kind, namespace, name), None)


def _name(kind: str, body: Body) -> Name:
    return kind, body["metadata"]["namespace"], body["metadata"]["name"]


def _mark(body: Body) -> str:
    """The generation where there is one: a budget's status changes with every pod."""
    metadata: dict[str, Any] = body["metadata"]
    return f"{metadata['uid']} {metadata.get('generation') or metadata['resourceVersion']}"
