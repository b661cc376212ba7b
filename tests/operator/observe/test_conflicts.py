"""What managedFields and lists of autoscalers say. The end-to-end tests hold the same to a real API server."""

import json
from typing import Any

import pytest
from headrace_operator.decide.conflicts import Autoscaler, Edit
from headrace_operator.kube import KubeError
from headrace_operator.observe.conflicts import Autoscalers, edits
from headrace_operator.observe.fields import leaves, owners
from hypothesis import given
from hypothesis import strategies as st

Body = dict[str, Any]


def entry(manager: str, fields: Body, subresource: str | None = None) -> Body:
    found = {"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}
    return {**found, "subresource": subresource} if subresource else found


def pod(*written: Body) -> Body:
    return {"metadata": {"name": "chat-0", "namespace": "default", "managedFields": list(written)}}


IMAGE: Body = {"f:spec": {"f:containers": {'k:{"name":"server"}': {".": {}, "f:image": {}}}}}
ROUTABLE: Body = {"f:metadata": {"f:labels": {"f:headrace.dev/routable": {}}}}
ASKED: Body = {"f:metadata": {"f:annotations": {"f:headrace.dev/drain-requested": {}}}}
TEAM: Body = {"f:metadata": {"f:labels": {"f:team": {}}, "f:annotations": {".": {}, "f:example.com/seen": {}}}}


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        pytest.param(entry("headrace", IMAGE), [], id="the operator"),
        pytest.param(entry("headrace-cli", ROUTABLE), [], id="a person through our own tool"),
        pytest.param(entry("kubectl-set", IMAGE), ["spec.containers[server].image"], id="another image"),
        pytest.param(entry("kubectl-label", ROUTABLE), ["metadata.labels.headrace.dev/routable"], id="a label of ours"),
        pytest.param(entry("kubectl-label", TEAM), [], id="labels and annotations of others"),
        pytest.param(entry("kubectl-annotate", ASKED), [], id="a person asks for a drain"),
        pytest.param(entry("kubelet", {"f:status": {"f:phase": {}}}, "status"), [], id="the node"),
        pytest.param(
            entry("kubectl-debug", {"f:spec": {"f:ephemeralContainers": {}}}, "ephemeralcontainers"), [], id="debug"
        ),
        pytest.param(
            entry("vpa", {"f:spec": {"f:containers": {'k:{"name":"server"}': {"f:resources": {}}}}}, "resize"),
            ["spec.containers[server].resources"],
            id="a resize in place",
        ),
        pytest.param(
            entry("x", {"f:metadata": {"f:ownerReferences": {"k:{}": {}}}}), ["metadata.ownerReferences"], id="owner"
        ),
    ],
)
def test_an_edit_is_a_field_of_ours_that_another_wrote(written: Body, fields: list[str]) -> None:
    assert edits(pod(written)) == [Edit("pod chat-0", field, written["manager"]) for field in fields]


def test_a_pod_without_managed_fields_has_no_edits() -> None:
    assert edits({"metadata": {"name": "chat-0"}}) == []


def test_owners_are_found_at_the_exact_path() -> None:
    body = pod(entry("a", {"f:spec": {"f:replicas": {}}}, "scale"), entry("b", {"f:spec": {"f:autoscaling": {}}}))
    assert owners(body, ("spec", "replicas")) == {"a"}
    assert owners(body, ("spec", "other")) == set()


names = st.text(st.characters(categories=["L", "N"], include_characters="-_/"), min_size=1, max_size=8)
trees: st.SearchStrategy[Body] = st.recursive(
    st.just({}),
    lambda below: st.dictionaries(
        names.map(lambda name: f"f:{name}") | names.map(lambda name: "k:" + json.dumps({"name": name})),
        below,
        max_size=3,
    ),
)


def _bottoms(tree: Body) -> int:
    return sum(_bottoms(below) if below else 1 for below in tree.values())


@given(trees)
def test_every_leaf_of_a_field_tree_is_told(tree: Body) -> None:
    assert len(list(leaves(tree))) == _bottoms(tree)


class Lists:
    """Answers lists by the last part of their path, or refuses them."""

    def __init__(self, **found: list[Body] | KubeError) -> None:
        self.found = found
        self.paths: list[str] = []

    async def get(self, path: str) -> Body:
        self.paths.append(path)
        answer = self.found.get(path.rsplit("/", 1)[-1], [])
        if isinstance(answer, KubeError):
            raise answer
        return {"items": answer}


def autoscaler(name: str, *, kind: str = "InferenceDeployment", owner: str | None = None) -> Body:
    target = {
        "apiVersion": "headrace.dev/v1alpha1" if kind == "InferenceDeployment" else "apps/v1",
        "kind": kind,
        "name": "chat",
    }
    owners = [{"kind": owner, "name": name}] if owner else []
    return {
        "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
        "spec": {"scaleTargetRef": target},
    }


OBJECT = {"metadata": {"name": "chat", "namespace": "default"}, "spec": {}}


async def looked(*namespaces: str, **found: list[Body] | KubeError) -> tuple[Autoscalers, Lists]:
    api = Lists(**found)
    autoscalers = Autoscalers(api, namespaces)  # type: ignore[arg-type]
    await autoscalers.look()
    return autoscalers, api


async def test_an_autoscaler_is_claimed_by_its_target() -> None:
    others = [autoscaler("web", kind="Deployment"), autoscaler("ours")]
    found, _ = await looked(horizontalpodautoscalers=others, scaledobjects=[autoscaler("events")])
    claims = found.claims(OBJECT, [])
    assert claims.autoscalers == (Autoscaler("HorizontalPodAutoscaler", "ours"), Autoscaler("ScaledObject", "events"))
    assert claims.autoscalers_unknown is None
    assert found.claims({"metadata": {"name": "chat", "namespace": "elsewhere"}}, []).autoscalers == ()


async def test_what_keda_made_of_a_scaled_object_is_one_claim() -> None:
    made = autoscaler("keda-hpa-events", owner="ScaledObject")
    found, _ = await looked(horizontalpodautoscalers=[made], scaledobjects=[autoscaler("events")])
    assert found.claims(OBJECT, []).autoscalers == (Autoscaler("ScaledObject", "events"),)


async def test_a_cluster_without_keda_is_known_all_the_same() -> None:
    found, _ = await looked(horizontalpodautoscalers=[autoscaler("ours")], scaledobjects=KubeError(404, "not found"))
    assert found.claims(OBJECT, []).autoscalers_unknown is None
    assert found.claims(OBJECT, []).autoscalers == (Autoscaler("HorizontalPodAutoscaler", "ours"),)


@pytest.mark.parametrize("refused", ["horizontalpodautoscalers", "scaledobjects"])
async def test_a_refused_list_is_unknown_in_the_words_of_the_server(refused: str) -> None:
    found, _ = await looked(**{refused: KubeError(403, "forbidden")})
    assert found.claims(OBJECT, []).autoscalers_unknown == "403: forbidden"


async def test_a_failed_list_keeps_what_was_known() -> None:
    found, api = await looked(horizontalpodautoscalers=[autoscaler("ours")])
    api.found["horizontalpodautoscalers"] = KubeError(500, "etcd is away")
    await found.look()
    claims = found.claims(OBJECT, [])
    assert claims.autoscalers
    assert claims.autoscalers_unknown == "500: etcd is away"


async def test_only_watched_namespaces_are_looked_into() -> None:
    _, api = await looked("team-a")
    assert all("/namespaces/team-a/" in path for path in api.paths)
    _, api = await looked()
    assert not any("/namespaces/" in path for path in api.paths)


async def test_a_number_in_spec_replicas_is_claimed_by_its_writer() -> None:
    found, _ = await looked()
    body = {
        "metadata": {
            **OBJECT["metadata"],
            "managedFields": [entry("kubectl", {"f:spec": {"f:replicas": {}}}, "scale")],
        },
        "spec": {"replicas": 5},
    }
    claims = found.claims(body, [pod(entry("kubectl-set", IMAGE))])
    assert (claims.replicas, claims.replicas_by) == (5, ("kubectl",))
    assert [edit.manager for edit in claims.edits] == ["kubectl-set"]
