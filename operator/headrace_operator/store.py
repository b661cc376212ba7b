"""What the watches have shown: InferenceDeployments, their pods and revisions, nodes. Kopf's thread and lists fill it.

Plain dictionaries whose single operations are atomic; the reader copies before it looks. A list and a watch race each
other: the newer resourceVersion wins, and what was seen to go stays gone (a UID never comes back).
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from headrace_operator import slim
from headrace_operator.decide import manifests, routing
from headrace_operator.observe.nodes import NodeFacts
from headrace_operator.work_queue import Key

Body = Mapping[str, Any]
REMEMBERED_GONE = 10_000  # UIDs; far more than go within one list request


class Store:
    def __init__(self, changed: Callable[[Key, bool], None]) -> None:
        """`changed` hears every key with news, in the caller's thread; True where its user asks for something else."""
        self._changed = changed
        self._objects: dict[Key, Body] = {}
        self._pods: dict[Key, dict[str, Body]] = {}
        self._revisions: dict[Key, dict[str, Body]] = {}
        self._routers: dict[Key, dict[str, Body]] = {}
        self._nodes: dict[str, NodeFacts] = {}  # by name
        self._gone: dict[str, None] = {}  # UIDs, oldest first

    def keys(self) -> list[Key]:
        return list(self._objects)

    def object(self, key: Key) -> Body | None:
        return self._objects.get(key)

    def pods(self, key: Key) -> list[Body]:
        return list(self._pods.get(key, {}).values())

    def revisions(self, key: Key) -> list[Body]:
        """ControllerRevisions: what pods of each revision are made from."""
        return list(self._revisions.get(key, {}).values())

    def routers(self, key: Key) -> list[Body]:
        """Pods of its routers."""
        return list(self._routers.get(key, {}).values())

    def nodes_of(self, pods: Sequence[Body]) -> dict[str, NodeFacts]:
        """By name, as far as they are known."""
        names = {pod.get("spec", {}).get("nodeName") for pod in pods}
        return {name: self._nodes[name] for name in names if name in self._nodes}

    def put_node(self, body: Body, *, is_gone: bool = False) -> None:
        """Of a node only what matters to its pods is kept; its frequent news about itself are none to us."""
        name = body["metadata"]["name"]
        known, facts = self._nodes.get(name), None if is_gone else NodeFacts.of(body)
        if facts == known:
            return
        if facts is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = facts
        for key, pods in list(self._pods.items()):
            if any(pod.get("spec", {}).get("nodeName") == name for pod in list(pods.values())):
                self._changed(key, False)

    def replace_nodes(self, nodes: Sequence[Body]) -> None:
        """What a full list says."""
        listed = {body["metadata"]["name"] for body in nodes}
        for body in nodes:
            self.put_node(body)
        for name in [name for name in self._nodes if name not in listed]:
            self.put_node({"metadata": {"name": name}}, is_gone=True)

    def put_object(self, body: Body, *, is_gone: bool = False) -> bool:
        """Was it news? So say all of these."""
        key = _key(body)
        known = self._objects.get(key)
        if is_gone:
            self._bury(body)
            self._objects.pop(key, None)
            self._changed(key, True)
            return known is not None
        if not self._is_news(body, known):
            return False
        self._objects[key] = body = slim.deployment(body)
        if known is None or _asked(known) != _asked(body):
            self._changed(key, True)  # a new status alone is what we wrote ourselves
        return True

    def put_pod(self, body: Body, *, is_gone: bool = False) -> bool:
        return self._put_child(self._pods, body, is_gone)

    def put_own(self, body: Body, *, is_gone: bool = False) -> bool:
        """A pod of a replica or of a router, as a list brings both."""
        return self.put_pod(body, is_gone=is_gone) or self.put_router(body, is_gone=is_gone)

    def put_revision(self, body: Body, *, is_gone: bool = False) -> bool:
        return self._put_child(self._revisions, body, is_gone)

    def put_router(self, body: Body, *, is_gone: bool = False) -> bool:
        """A pod of a router; of any other, nothing."""
        return self._put_child(self._routers, body, is_gone, routing.ROUTER_LABEL)

    def keep(self, listed: Collection[str], version: int) -> Counter[str]:
        """After full lists were put: what they lack is gone, unless it is younger than `version`, the oldest list's.

        `listed`: UIDs of objects, pods and revisions. Returns how many of each resource were gone.
        """
        kinds: tuple[tuple[str, Put, list[Body]], ...] = (
            ("controllerrevisions", self.put_revision, _children(self._revisions)),
            ("pods", self.put_pod, _children(self._pods)),
            ("pods", self.put_router, _children(self._routers)),
            ("inferencedeployments", self.put_object, list(self._objects.values())),
        )
        gone: Counter[str] = Counter()
        for resource, put, known in kinds:
            for body in known:
                if _uid(body) not in listed and _version(body) <= version:
                    gone[resource] += put(body, is_gone=True)
        return gone

    def _put_child(
        self,
        children: dict[Key, dict[str, Body]],
        body: Body,
        is_gone: bool,
        label: str = manifests.DEPLOYMENT_LABEL,
    ) -> bool:
        key, uid = owner(body, label), _uid(body)
        if key is None:
            return False
        known = children.setdefault(key, {})
        if is_gone:
            self._bury(body)
            was_known = known.pop(uid, None) is not None
            self._changed(key, False)
            return was_known
        if not self._is_news(body, known.get(uid)):
            return False
        known[uid] = slim.child(body)
        self._changed(key, False)
        return True

    def _bury(self, body: Body) -> None:
        self._gone[_uid(body)] = None
        if len(self._gone) > REMEMBERED_GONE:
            self._gone.pop(next(iter(self._gone)), None)

    def _is_news(self, body: Body, known: Body | None) -> bool:
        if _uid(body) in self._gone:
            return False
        return known is None or _uid(known) != _uid(body) or _version(body) > _version(known)


class Put(Protocol):
    def __call__(self, body: Body, *, is_gone: bool = False) -> bool: ...


def _children(by_key: Mapping[Key, Mapping[str, Body]]) -> list[Body]:
    return [body for known in list(by_key.values()) for body in list(known.values())]


def _key(body: Body) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _asked(body: Body) -> list[Any]:
    """What shows that somebody other than us wrote an InferenceDeployment: spec, labels, annotations, its end."""
    return [
        body["metadata"].get(field) for field in ("uid", "generation", "labels", "annotations", "deletionTimestamp")
    ]


def _uid(body: Body) -> str:
    return str(body["metadata"]["uid"])


def _version(body: Body) -> int:
    """resourceVersions of one API server are comparable numbers (documented since Kubernetes 1.35)."""
    return int(body["metadata"].get("resourceVersion", 0))


def owner(child: Body, label: str = manifests.DEPLOYMENT_LABEL) -> Key | None:
    """The key of the InferenceDeployment that a pod or a revision belongs to, or that a router is for."""
    name = child["metadata"].get("labels", {}).get(label)
    return (child["metadata"]["namespace"], name) if name else None
