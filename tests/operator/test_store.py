"""A list and a watch race each other: the newer version wins, and what was seen to go stays gone."""

from typing import Any

import pytest
from headrace_operator.decide import manifests
from headrace_operator.decide.values import Role
from headrace_operator.observe.pods import Around, metrics_urls, observed
from headrace_operator.store import Store
from headrace_operator.work_queue import Key
from observations import deployment, recorded

KEY = ("default", "chat")
Body = dict[str, Any]


def an_object(version: int, uid: str = "o1") -> Body:
    return {"metadata": {"namespace": "default", "name": "chat", "uid": uid, "resourceVersion": str(version)}}


def a_pod(version: int, uid: str = "p1", owner: str | None = "chat") -> Body:
    labels = {"headrace.dev/deployment": owner} if owner else {}
    metadata = {"namespace": "default", "name": uid, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata}


@pytest.fixture
def changes() -> list[Key]:
    return []


@pytest.fixture
def store(changes: list[Key]) -> Store:
    return Store(lambda key, is_asked: changes.append(key))


def versions(store: Store) -> list[str]:
    return [pod["metadata"]["resourceVersion"] for pod in store.pods(KEY)]


def test_a_pod_marks_the_key_of_its_deployment(store: Store, changes: list[Key]) -> None:
    store.put_pod(a_pod(1))
    store.put_pod(a_pod(2, uid="foreign", owner=None))
    assert changes == [KEY]
    assert versions(store) == ["1"]


def test_an_older_version_does_not_replace_a_newer_one(store: Store) -> None:
    for version in (5, 3):
        store.put_pod(a_pod(version))
        store.put_object(an_object(version))
    assert versions(store) == ["5"]
    assert (store.object(KEY) or {})["metadata"]["resourceVersion"] == "5"


def test_a_list_made_before_a_deletion_does_not_bring_the_pod_back(store: Store) -> None:
    store.put_pod(a_pod(5))
    store.put_pod(a_pod(6), is_gone=True)
    store.put_pod(a_pod(5))
    store.put_object(an_object(1))
    store.keep({"o1", "p1"}, version=5)
    assert versions(store) == []


def test_a_list_repairs_a_deletion_that_the_watch_missed(store: Store, changes: list[Key]) -> None:
    store.put_object(an_object(1))
    store.put_pod(a_pod(5))
    changes.clear()
    assert store.keep((), version=9) == {"pods": 1, "inferencedeployments": 1}
    assert store.keep((), version=9) == {}
    assert versions(store) == []
    assert store.object(KEY) is None
    assert KEY in changes


def test_a_list_does_not_remove_what_is_younger_than_it(store: Store) -> None:
    store.put_object(an_object(8))
    store.put_pod(a_pod(9))
    store.keep((), version=7)
    assert versions(store) == ["9"]
    assert store.keys() == [KEY]


def test_a_new_object_of_the_same_name_replaces_the_old_one(store: Store) -> None:
    store.put_object(an_object(8))
    store.put_object(an_object(8), is_gone=True)
    store.put_object(an_object(9, uid="o2"))
    store.put_object(an_object(8))  # a late word about the old one
    assert (store.object(KEY) or {})["metadata"]["uid"] == "o2"


def test_what_a_user_asks_is_told_apart_from_what_the_operator_wrote(store: Store) -> None:
    told: list[bool] = []
    store = Store(lambda key, is_asked: told.append(is_asked))
    first, status_written, asked = an_object(1), an_object(2), an_object(3)
    first["metadata"]["generation"] = status_written["metadata"]["generation"] = 1
    asked["metadata"]["generation"] = 2
    for body in (first, status_written, asked):
        store.put_object(body)
    store.put_pod(a_pod(4))
    assert told == [True, True, False]
    assert (store.object(KEY) or {})["metadata"]["resourceVersion"] == "3"


def test_the_same_word_twice_is_no_news(store: Store, changes: list[Key]) -> None:
    for _ in range(2):
        store.put_pod(a_pod(1))
        store.put_object(an_object(1))
    assert changes == [KEY, KEY]


def test_who_wrote_which_field_is_not_kept(store: Store) -> None:
    pod = a_pod(1)
    pod["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    store.put_pod(pod)
    assert "managedFields" not in store.pods(KEY)[0]["metadata"]


def test_what_others_wrote_into_a_pod_is_kept(store: Store) -> None:
    pod = a_pod(1)
    ours = {"manager": "headrace", "fieldsV1": {"f:spec": {"f:containers": {}}}}
    theirs = {"manager": "kubectl-label", "fieldsV1": {"f:metadata": {"f:labels": {"f:headrace.dev/ordinal": {}}}}}
    pod["metadata"]["managedFields"] = [ours, theirs]
    store.put_pod(pod)
    assert store.pods(KEY)[0]["metadata"]["managedFields"] == [theirs]


def on_node(name: str, **metadata: str) -> Body:
    pod = a_pod(1)
    return {**pod, "spec": {"nodeName": name}, "metadata": {**pod["metadata"], **metadata}}


def a_node(**spec: object) -> Body:
    return {"metadata": {"name": "gpu-a"}, "spec": spec}


def test_a_cordon_is_news_to_the_pods_of_the_node(store: Store, changes: list[Key]) -> None:
    store.put_pod(on_node("gpu-a"))
    store.put_node(a_node())
    changes.clear()
    store.put_node({**a_node(), "status": {"images": []}})
    assert changes == []
    store.put_node(a_node(unschedulable=True))
    assert changes == [KEY]
    assert store.nodes_of(store.pods(KEY))["gpu-a"].is_cordoned


def test_nothing_is_known_of_a_node_that_is_gone(store: Store) -> None:
    store.put_pod(on_node("gpu-a"))
    store.put_node(a_node(unschedulable=True))
    store.replace_nodes([])
    assert store.nodes_of(store.pods(KEY)) == {}


def test_of_a_pods_spec_only_what_is_read_is_kept(store: Store) -> None:
    pod = a_pod(1)
    containers = [{"name": "server", "args": ["serve", "--device=cuda"], "env": [{"name": "A"}]}]
    pod["spec"] = {"nodeName": "n", "tolerations": [{"key": "gpu"}], "containers": containers, "volumes": [{}]}
    store.put_pod(pod)
    kept = store.pods(KEY)[0]["spec"]
    assert kept == {
        "nodeName": "n",
        "tolerations": [{"key": "gpu"}],
        "containers": [{"args": ["serve", "--device=cuda"], "ports": []}],
    }
    assert "volumes" in pod["spec"], "what was given is not changed"


def test_of_what_is_kept_of_a_pod_the_same_is_read_as_of_the_whole(store: Store) -> None:
    """Of a pod as the operator makes it: where it is asked, and what it is taken for."""
    now = "2026-11-21T10:00:00Z"
    made = manifests.pod(deployment(name="chat"), recorded(), 0, Role.REPLICA)
    metadata = {**made["metadata"], "uid": "u1", "resourceVersion": "1", "creationTimestamp": now}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
    pod = {**made, "metadata": metadata, "status": {"podIP": "127.0.0.9", "conditions": [ready]}}
    store.put_pod(pod)
    kept = store.pods(KEY)
    assert metrics_urls(kept) == metrics_urls([pod])
    assert observed(kept, Around()) == observed([pod], Around())
