"""What others claim of an InferenceDeployment: autoscalers that target it, and fields that they wrote."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from headrace_operator import kube
from headrace_operator.decide import manifests
from headrace_operator.decide.conflicts import Autoscaler, Claims, Edit
from headrace_operator.kube import Body, Kube, KubeError
from headrace_operator.observe.fields import Entry, entries, leaves, owners

LOOK = 30.0  # seconds between two lists of autoscalers
OURS = {kube.FIELD_MANAGER, "headrace-cli"}
# Written by the node, the scheduler and `kubectl debug`, as is their right.
NOT_OURS = {"status", "binding", "ephemeralcontainers"}
PREFIX = f"{manifests.GROUP}/"
Key = tuple[str, str]  # namespace, name
Claim = tuple[str, Body]  # kind (the items of a list do not say it), autoscaler


class Autoscalers:
    """Every HorizontalPodAutoscaler and ScaledObject whose target is an InferenceDeployment, as of the last list."""

    def __init__(self, api: Kube, namespaces: tuple[str, ...]) -> None:
        """`namespaces` to look into; none = all."""
        self._api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._by_target: dict[Key, tuple[Autoscaler, ...]] = {}
        self._trouble: str | None = "not listed yet"

    async def run(self) -> None:
        """Lists for ever. What fails is told in every object's condition, and tried again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        try:
            found = [claim for namespace in self._namespaces for claim in await self._list(namespace)]
        except KubeError as error:
            self._trouble = str(error)
            return
        self._by_target, self._trouble = _by_target(found), None

    def claims(self, body: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Claims:
        """What is known of one InferenceDeployment with its pods."""
        metadata = body["metadata"]
        return Claims(
            replicas=body.get("spec", {}).get("replicas"),
            replicas_by=tuple(sorted(owners(body, ("spec", "replicas")))),
            autoscalers=self._by_target.get((metadata["namespace"], metadata["name"]), ()),
            autoscalers_unknown=self._trouble,
            edits=tuple(edit for pod in pods for edit in edits(pod)),
        )

    async def _list(self, namespace: str | None) -> list[Claim]:
        found = (await self._api.get(kube.horizontal_pod_autoscalers(namespace)))["items"]
        claims = [("HorizontalPodAutoscaler", body) for body in found if not _is_kedas(body)]
        try:
            found = (await self._api.get(kube.scaled_objects(namespace)))["items"]
        except KubeError as error:
            if error.status != 404:  # KEDA is not installed
                raise
            found = []
        return claims + [("ScaledObject", body) for body in found]


def edits(pod: Mapping[str, Any]) -> list[Edit]:
    """Fields of a pod that the operator owns and somebody else wrote."""
    place = f"pod {pod['metadata']['name']}"
    return [
        Edit(place, field, str(entry.get("manager", "unknown")))
        for entry in foreign(pod)
        for field in leaves(_owned(entry.get("fieldsV1", {})))
    ]


def foreign(child: Mapping[str, Any]) -> list[Entry]:
    """Entries of managedFields in which others wrote what is the operator's; few, and mostly none."""
    return [
        entry
        for entry in entries(child)
        if entry.get("manager") not in OURS
        and entry.get("subresource") not in NOT_OURS
        and _owned(entry.get("fieldsV1", {}))
    ]


def _owned(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of a fieldsV1 tree, what the operator claims: a pod's spec, its owner, and labels and annotations of its own."""
    metadata = fields.get("f:metadata", {})
    marks = {kind: _marks(metadata.get(kind, {})) for kind in ("f:labels", "f:annotations")}
    claimed = {kind: found for kind, found in marks.items() if found}
    if "f:ownerReferences" in metadata:
        claimed["f:ownerReferences"] = {}
    owned = {"f:metadata": claimed} if claimed else {}
    return owned | ({"f:spec": fields["f:spec"]} if "f:spec" in fields else {})


def _marks(written: Mapping[str, Any]) -> dict[str, Any]:
    """Anybody may ask for a drain."""
    asked = f"f:{manifests.DRAIN_REQUESTED_ANNOTATION}"
    return {name: below for name, below in written.items() if name.startswith(f"f:{PREFIX}") and name != asked}


def _is_kedas(autoscaler: Body) -> bool:
    """The HorizontalPodAutoscaler that KEDA makes from a ScaledObject is the same claim once more."""
    return any(owner["kind"] == "ScaledObject" for owner in autoscaler["metadata"].get("ownerReferences", ()))


def _by_target(found: Iterable[Claim]) -> dict[Key, tuple[Autoscaler, ...]]:
    targets: dict[Key, tuple[Autoscaler, ...]] = {}
    for kind, body in found:
        target = body.get("spec", {}).get("scaleTargetRef", {})
        if target.get("kind") == manifests.KIND and target.get("apiVersion", "").startswith(PREFIX):
            key = (body["metadata"]["namespace"], target["name"])
            targets[key] = (*targets.get(key, ()), Autoscaler(kind, body["metadata"]["name"]))
    return targets
