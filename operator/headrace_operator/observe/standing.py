"""Services, disruption budgets, and what spec.routing asks for: written once a generation, and again when a list shows
that somebody touched them. What a list shows of them beside that is what another spec.routing had made.

Writing each of them again every 30 s, to be sure, was all that the API server did for 500 deployments.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from headrace_operator import kube
from headrace_operator.decide.routing import Child
from headrace_operator.kube import Body, Kube, KubeError

logger = logging.getLogger(__name__)
LOOK = 30.0  # seconds after which a Service that somebody deleted or changed is as it should be again
Name = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class _Stood:
    """One object as the API server has it."""

    owner: str  # UID of its InferenceDeployment
    owner_name: str
    uid: str
    version: int  # resourceVersion
    mark: str  # changes when somebody touches it
    role: str  # that a RoleBinding gives; "" of other kinds


class Standing:
    def __init__(self, api: Kube, namespaces: tuple[str, ...]) -> None:
        """`namespaces` to look into; none = all."""
        self._api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._written: dict[Name, _Stood] = {}
        self._found: Mapping[Name, _Stood] = {}  # by the last look
        self._of: dict[str, dict[Name, _Stood]] = {}  # by UID of their InferenceDeployments, for each look at one
        self._touched: set[tuple[str, str]] = set()  # (namespace, name) of their InferenceDeployments

    async def run(self) -> None:
        """Lists for ever; what fails is tried again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """What cannot be listed is as it was."""
        written = dict(self._written)  # what is written meanwhile is younger than the lists
        found: dict[Name, _Stood] = {}
        for kind in kube.STANDING:
            try:
                of_kind, version = await self._list(kind)
            except KubeError as error:
                logger.warning("cannot list objects of kind %s: %s", kind, error)
                of_kind = {name: stood for name, stood in self._found.items() if name[0] == kind}
                version = -1
            found |= of_kind
            for name, stood in written.items():
                is_listed = name[0] == kind and stood.version <= version
                if is_listed and (name not in of_kind or of_kind[name].mark != stood.mark):
                    self._touched.add((name[1], stood.owner_name))
        self._found = found
        self._of = _by_owner({**found, **self._written})

    def wrote(self, body: Body) -> None:
        """As the API server answered. What it is for is untouched from now on."""
        if stood := _stood(body):
            name = _name(body["kind"], body)
            self._written[name] = self._of.setdefault(stood.owner, {})[name] = stood
            self._touched.discard((body["metadata"]["namespace"], stood.owner_name))

    def removed(self, namespace: str, owner: str, child: Child) -> None:
        """`owner`: UID of its InferenceDeployment."""
        name = (child.kind, namespace, child.name)
        for known in (self._written, self._of.get(owner, {})):
            if name in known and known[name].uid == child.uid:  # not the one that was made in its place
                del known[name]

    def is_touched(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self._touched

    def children(self, uid: str) -> list[Child]:
        """Of the InferenceDeployment with this UID, as far as they are known."""
        return [Child(name[0], name[2], stood.uid, stood.role) for name, stood in self._of.get(uid, {}).items()]

    def forget(self, namespace: str, name: str) -> None:
        """Of an InferenceDeployment that is gone."""
        self._touched.discard((namespace, name))
        gone = [known for known, stood in self._written.items() if (known[1], stood.owner_name) == (namespace, name)]
        for known in gone:
            self._of.pop(self._written.pop(known).owner, None)

    async def _list(self, kind: str) -> tuple[dict[Name, _Stood], int]:
        """With the resourceVersion of the oldest list. Nothing where the API server does not know the kind."""
        found: dict[Name, _Stood] = {}
        versions = []
        for namespace in self._namespaces:
            try:
                async for page in self._api.pages(kube.STANDING[kind](namespace, None), labelSelector=kube.OWN_PODS):
                    versions.append(int(page["metadata"]["resourceVersion"]))
                    found |= {_name(kind, body): stood for body in page["items"] if (stood := _stood(body))}
            except KubeError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
        return found, min(versions, default=-1)


def _by_owner(known: Mapping[Name, _Stood]) -> dict[str, dict[Name, _Stood]]:
    found: dict[str, dict[Name, _Stood]] = {}
    for name, stood in known.items():
        found.setdefault(stood.owner, {})[name] = stood
    return found


def _name(kind: str, body: Body) -> Name:
    return kind, body["metadata"]["namespace"], body["metadata"]["name"]


def _stood(body: Body) -> _Stood | None:
    """None for what no InferenceDeployment owns."""
    metadata: dict[str, Any] = body["metadata"]
    for owner in metadata.get("ownerReferences", ()):
        if owner.get("controller") and owner["kind"] == "InferenceDeployment":
            role = body.get("roleRef", {}).get("name", "")
            version = int(metadata["resourceVersion"])
            return _Stood(owner["uid"], owner["name"], metadata["uid"], version, _mark(metadata), role)
    return None


def _mark(metadata: Mapping[str, Any]) -> str:
    """The generation where there is one: a budget's status changes with every pod."""
    return f"{metadata['uid']} {metadata.get('generation') or metadata['resourceVersion']}"
