"""What the watches have shown: InferenceDeployments, their pods and revisions. Kopf's thread and relists fill it.

Plain dictionaries whose single operations are atomic; the reader copies before it looks. A list and a watch race each
other: the newer resourceVersion wins, and what was seen to go stays gone (a UID never comes back).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace_operator.decide import manifests
from headrace_operator.work_queue import Key

Body = Mapping[str, Any]
REMEMBERED_GONE = 10_000  # UIDs; far more than go within one list request


class Store:
    def __init__(self, changed: Callable[[Key], None]) -> None:
        """`changed` hears every key whose object or pods changed, in the caller's thread."""
        self._changed = changed
        self._objects: dict[Key, Body] = {}
        self._pods: dict[Key, dict[str, Body]] = {}
        self._revisions: dict[Key, dict[str, Body]] = {}
        self._gone: deque[str] = deque(maxlen=REMEMBERED_GONE)

    def keys(self) -> list[Key]:
        return list(self._objects)

    def object(self, key: Key) -> Body | None:
        return self._objects.get(key)

    def pods(self, key: Key) -> list[Body]:
        return list(self._pods.get(key, {}).values())

    def revisions(self, key: Key) -> list[Body]:
        """ControllerRevisions: what pods of each revision are made from."""
        return list(self._revisions.get(key, {}).values())

    def put_object(self, body: Body, *, is_gone: bool = False) -> None:
        key = _key(body)
        if is_gone:
            self._gone.append(_uid(body))
            self._objects.pop(key, None)
        elif self._is_news(body, self._objects.get(key)):
            self._objects[key] = body
        self._changed(key)

    def put_pod(self, body: Body, *, is_gone: bool = False) -> None:
        self._put_child(self._pods, body, is_gone)

    def put_revision(self, body: Body, *, is_gone: bool = False) -> None:
        self._put_child(self._revisions, body, is_gone)

    def replace(self, objects: Sequence[Body], pods: Sequence[Body], revisions: Sequence[Body], version: int) -> None:
        """What full lists of resourceVersion `version` say: what they lack is gone, unless it is younger."""
        listed = {_uid(body) for body in (*objects, *pods, *revisions)}
        kinds: tuple[tuple[Put, Sequence[Body], list[Body]], ...] = (
            (self.put_revision, revisions, _children(self._revisions)),
            (self.put_pod, pods, _children(self._pods)),
            (self.put_object, objects, list(self._objects.values())),
        )
        for put, found, known in kinds:
            for body in found:
                put(body)
            for body in known:
                if _uid(body) not in listed and _version(body) <= version:
                    put(body, is_gone=True)

    def _put_child(self, children: dict[Key, dict[str, Body]], body: Body, is_gone: bool) -> None:
        key, uid = owner(body), _uid(body)
        if key is None:
            return
        known = children.setdefault(key, {})
        if is_gone:
            self._gone.append(uid)
            known.pop(uid, None)
        elif self._is_news(body, known.get(uid)):
            known[uid] = body
        self._changed(key)

    def _is_news(self, body: Body, known: Body | None) -> bool:
        if _uid(body) in self._gone:
            return False
        return known is None or _uid(known) != _uid(body) or _version(body) >= _version(known)


class Put(Protocol):
    def __call__(self, body: Body, *, is_gone: bool = False) -> None: ...


def _children(by_key: Mapping[Key, Mapping[str, Body]]) -> list[Body]:
    return [body for known in list(by_key.values()) for body in list(known.values())]


def _key(body: Body) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _uid(body: Body) -> str:
    return str(body["metadata"]["uid"])


def _version(body: Body) -> int:
    """resourceVersions of one API server are comparable numbers (documented since Kubernetes 1.35)."""
    return int(body["metadata"].get("resourceVersion", 0))


def owner(child: Body) -> Key | None:
    """The key of the InferenceDeployment that a pod or a revision belongs to."""
    name = child["metadata"].get("labels", {}).get(manifests.DEPLOYMENT_LABEL)
    return (child["metadata"]["namespace"], name) if name else None
