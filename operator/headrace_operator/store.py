"""What the watches have shown: InferenceDeployments, their pods and revisions, nodes. Kopf's thread and lists fill it.

Plain dictionaries whose single operations are atomic; the reader copies before it looks. A list and a watch race each
other: the newer resourceVersion wins, and what was seen to go stays gone (a UID never comes back).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from headrace_operator.decide import manifests
from headrace_operator.observe.conflicts import foreign
from headrace_operator.observe.nodes import NodeFacts
from headrace_operator.work_queue import Key

Body = Mapping[str, Any]
SPEC = ("nodeName", "tolerations")  # of a pod
REMEMBERED_GONE = 10_000  # UIDs; far more than go within one list request


class Store:
    def __init__(self, changed: Callable[[Key, bool], None]) -> None:
        """`changed` hears every key with news, in the caller's thread; True where its user asks for something else."""
        self._changed = changed
        self._objects: dict[Key, Body] = {}
        self._pods: dict[Key, dict[str, Body]] = {}
        self._revisions: dict[Key, dict[str, Body]] = {}
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

    def put_object(self, body: Body, *, is_gone: bool = False) -> None:
        key = _key(body)
        known = self._objects.get(key)
        if is_gone:
            self._bury(body)
            self._objects.pop(key, None)
            self._changed(key, True)
        elif self._is_news(body, known):
            self._objects[key] = body
            if known is None or _asked(known) != _asked(body):
                self._changed(key, True)  # a new status alone is what we wrote ourselves

    def put_pod(self, body: Body, *, is_gone: bool = False) -> None:
        self._put_child(self._pods, body, is_gone)

    def put_revision(self, body: Body, *, is_gone: bool = False) -> None:
        self._put_child(self._revisions, body, is_gone)

    def keep(self, listed: Collection[str], version: int) -> None:
        """After full lists were put: what they lack is gone, unless it is younger than `version`, the oldest list's.

        `listed`: UIDs of objects, pods and revisions.
        """
        kinds: tuple[tuple[Put, list[Body]], ...] = (
            (self.put_revision, _children(self._revisions)),
            (self.put_pod, _children(self._pods)),
            (self.put_object, list(self._objects.values())),
        )
        for put, known in kinds:
            for body in known:
                if _uid(body) not in listed and _version(body) <= version:
                    put(body, is_gone=True)

    def _put_child(self, children: dict[Key, dict[str, Body]], body: Body, is_gone: bool) -> None:
        key, uid = owner(body), _uid(body)
        if key is None:
            return
        known = children.setdefault(key, {})
        if is_gone:
            self._bury(body)
            known.pop(uid, None)
        elif self._is_news(body, known.get(uid)):
            known[uid] = _slim(body)
        else:
            return
        self._changed(key, False)

    def _bury(self, body: Body) -> None:
        self._gone[_uid(body)] = None
        if len(self._gone) > REMEMBERED_GONE:
            self._gone.pop(next(iter(self._gone)), None)

    def _is_news(self, body: Body, known: Body | None) -> bool:
        if _uid(body) in self._gone:
            return False
        return known is None or _uid(known) != _uid(body) or _version(body) > _version(known)


class Put(Protocol):
    def __call__(self, body: Body, *, is_gone: bool = False) -> None: ...


def _children(by_key: Mapping[Key, Mapping[str, Body]]) -> list[Body]:
    return [body for known in list(by_key.values()) for body in list(known.values())]


def _key(body: Body) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _asked(body: Body) -> list[Any]:
    """What shows that somebody other than us wrote an InferenceDeployment: spec, labels, annotations, its end."""
    return [
        body["metadata"].get(field) for field in ("uid", "generation", "labels", "annotations", "deletionTimestamp")
    ]


def _slim(child: Body) -> Body:
    """What is read here of a pod or a revision: of two thousand pods, the rest is 60 MB.

    Of who wrote which field: what others wrote that is ours. Of a pod's spec: SPEC, and the containers' arguments and
    ports.
    """
    metadata = {name: value for name, value in child["metadata"].items() if name != "managedFields"}
    if written := foreign(child):
        metadata["managedFields"] = written
    if "spec" not in child:
        return {**child, "metadata": metadata}
    spec = {name: child["spec"][name] for name in SPEC if name in child["spec"]}
    spec["containers"] = [
        {"args": one.get("args", []), "ports": one.get("ports", [])} for one in child["spec"].get("containers", [])
    ]
    return {**child, "metadata": metadata, "spec": spec}


def _uid(body: Body) -> str:
    return str(body["metadata"]["uid"])


def _version(body: Body) -> int:
    """resourceVersions of one API server are comparable numbers (documented since Kubernetes 1.35)."""
    return int(body["metadata"].get("resourceVersion", 0))


def owner(child: Body) -> Key | None:
    """The key of the InferenceDeployment that a pod or a revision belongs to."""
    name = child["metadata"].get("labels", {}).get(manifests.DEPLOYMENT_LABEL)
    return (child["metadata"]["namespace"], name) if name else None
