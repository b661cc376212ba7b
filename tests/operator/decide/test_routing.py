"""What `spec.routing` makes, takes back, and says of itself."""

from dataclasses import replace

import pytest
from headrace_operator.decide import conditions, revisions, routing
from headrace_operator.decide.actions import ApplyRouting, DeleteRouting
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.routing import Child, RouterParts
from headrace_operator.decide.values import Observed, RouterState
from headrace_operator.pod_fields import PodFields
from headrace_operator.routing_fields import EndpointPicker, Hold, ModelRouters, Routing, RoutingMode
from headrace_operator.service import Canary, Rollout, Strategy
from observations import deployment

PARTS = RouterParts("headrace-router:1", "headrace-router")
ROUTED = deployment(routing=Routing(RoutingMode.HEADRACE, 3, Hold(7, 90.0)))
POOLED = deployment(routing=Routing(RoutingMode.GATEWAY, endpoint_picker=EndpointPicker("epp", 9002, "FailOpen")))
STANDS = [Child("Service", "llama", "1"), Child("PodDisruptionBudget", "llama", "2")]
OF_ROUTERS = [
    Child(kind, "llama-router", kind)
    for kind in ("ServiceAccount", "RoleBinding", "Deployment", "Service", "PodDisruptionBudget")
]


def test_a_service_alone_needs_nothing_else() -> None:
    assert routing.plan(deployment(), PARTS, STANDS, is_due=True) == []


def test_routers_are_made_with_all_that_they_need_and_owned_by_their_deployment() -> None:
    made = [
        action.body for action in routing.plan(ROUTED, PARTS, STANDS, is_due=True) if isinstance(action, ApplyRouting)
    ]
    assert [(body["kind"], body["metadata"]["name"]) for body in made] == [(one.kind, one.name) for one in OF_ROUTERS]
    assert all(body["metadata"]["ownerReferences"][0]["uid"] == ROUTED.uid for body in made)
    assert all(body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "headrace" for body in made)


def test_the_routers_deployment_is_as_the_manifest_says() -> None:
    (body,) = [body for body in routing.bodies(ROUTED, PARTS) if body["kind"] == "Deployment"]
    pod = body["spec"]["template"]
    assert body["spec"]["replicas"] == 3
    assert body["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"][routing.ROUTER_LABEL] == "llama"
    assert "headrace.dev/deployment" not in pod["metadata"]["labels"], "a router is no replica"
    (container,) = pod["spec"]["containers"]
    assert {"--hold-requests=7", "--hold-seconds=90", "--deployment=default/llama"} <= set(container["args"])


def test_a_binding_gives_a_router_the_role_of_routers_and_nobody_else() -> None:
    (body,) = [body for body in routing.bodies(ROUTED, RouterParts("image", "other")) if body["kind"] == "RoleBinding"]
    assert body["roleRef"]["name"] == "other"
    assert body["subjects"] == [{"kind": "ServiceAccount", "name": "llama-router", "namespace": "default"}]


def test_the_pull_secrets_of_a_deployment_are_those_of_its_routers() -> None:
    given = replace(ROUTED, pod=PodFields(pull_secrets=("registry",)))
    (body,) = [body for body in routing.bodies(given, PARTS) if body["kind"] == "Deployment"]
    assert body["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_pool_selects_what_the_service_selects() -> None:
    (body,) = routing.bodies(POOLED, PARTS)
    assert body["spec"] == {
        "selector": {"matchLabels": {"headrace.dev/deployment": "llama", "headrace.dev/routable": "true"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
    }


def test_what_stands_is_left_alone() -> None:
    assert routing.plan(ROUTED, PARTS, [*STANDS, *OF_ROUTERS], is_due=False) == []


def test_a_binding_to_another_releases_role_makes_room_for_ours() -> None:
    bound = [replace(one, role="headrace-router") if one.kind == "RoleBinding" else one for one in OF_ROUTERS]
    renamed = replace(PARTS, role="prod-headrace-router")
    assert routing.plan(ROUTED, PARTS, [*STANDS, *bound], is_due=False) == []
    first, *others = routing.plan(ROUTED, renamed, [*STANDS, *bound], is_due=False)
    assert first == DeleteRouting("RoleBinding", "llama-router", "RoleBinding")
    assert others == [ApplyRouting(body) for body in routing.bodies(ROUTED, renamed)]
    assert routing.plan(deployment(), renamed, [*STANDS, *bound], is_due=False).count(first) == 1


@pytest.mark.parametrize("other", [deployment(), POOLED], ids=["Service", "GatewayInferencePool"])
def test_another_way_takes_the_routers_back(other: object) -> None:
    planned = routing.plan(other, PARTS, [*STANDS, *OF_ROUTERS], is_due=False)  # type: ignore[arg-type]
    assert planned == [DeleteRouting(one.kind, one.name, one.uid) for one in OF_ROUTERS]


def test_a_pool_is_taken_back_and_a_pool_of_another_name_is_not_ours_to_keep() -> None:
    pool = Child("InferencePool", "llama", "3")
    assert routing.plan(ROUTED, PARTS, [*STANDS, pool], is_due=False) == [DeleteRouting("InferencePool", "llama", "3")]


def test_an_operator_without_the_image_runs_no_routers_and_says_so() -> None:
    parts = RouterParts(image=None)
    assert routing.bodies(ROUTED, parts) == []
    assert "--router-image" in (routing.trouble(ROUTED, parts, None) or "")
    assert routing.trouble(deployment(), parts, None) is None


(POOL,) = routing.bodies(POOLED, PARTS)
REFUSED = [
    pytest.param(ApplyRouting(POOL), 404, "install the CRDs of the Gateway API", id="no such kind"),
    pytest.param(ApplyRouting(POOL), 403, "InferencePool llama cannot be written: words", id="no right to it"),
    pytest.param(
        DeleteRouting("Service", "llama-router", "1"),
        403,
        "Service llama-router cannot be removed: words",
        id="nor to that",
    ),
]


@pytest.mark.parametrize(("action", "status", "told"), REFUSED)
def test_a_refusal_names_the_object_or_the_remedy(action: ApplyRouting | DeleteRouting, status: int, told: str) -> None:
    assert told in routing.refusal(action, status, "words")


READY = RouterState("a", is_ready=True)
CHAT = (ModelRouters("team-a", "chat"),)
SHARED_WAY = deployment(routing=Routing(model_routers=CHAT))
BOTH_WAYS = deployment(routing=Routing(RoutingMode.HEADRACE, model_routers=CHAT))
CONDITIONS = [
    pytest.param(ROUTED, (), None, ("False", "NoRouterReady", "0 of 3 routers"), id="none yet"),
    pytest.param(ROUTED, (READY,), None, ("True", "RoutersReady", "1 of 3 routers"), id="one serves"),
    pytest.param(ROUTED, (READY,), routing.NO_IMAGE, ("False", "RoutingRefused", "router.image"), id="no image"),
    pytest.param(
        ROUTED,
        (READY, RouterState("b", is_ready=False, message="ImagePullFailed: no such image")),
        None,
        ("True", "RoutersReady", "llama-router; b: ImagePullFailed: no such image"),
        id="one does not come, and says why",
    ),
    pytest.param(
        SHARED_WAY,
        (replace(READY, group="team-a/chat"),),
        None,
        (
            "True",
            "RoutersReady",
            "1 of 1 model routers of team-a/chat are ready; clients use their Service chat-models",
        ),
        id="model routers",
    ),
    pytest.param(
        SHARED_WAY, (), None, ("False", "NoRouterReady", "no model router of team-a/chat is seen"), id="no model router"
    ),
    pytest.param(
        SHARED_WAY,
        (RouterState("a", False, message="its config has no model", group="team-a/chat"),),
        None,
        (
            "False",
            "NoRouterReady",
            "0 of 1 model routers of team-a/chat are ready; clients use their Service chat-models; "
            "a: its config has no model",
        ),
        id="model routers that do not know it",
    ),
    pytest.param(
        BOTH_WAYS, (READY,), None, ("False", "NoRouterReady", "1 of 2 routers are ready"), id="one way of two is there"
    ),
    pytest.param(
        BOTH_WAYS,
        (READY, replace(READY, group="team-a/chat")),
        None,
        ("True", "RoutersReady", "; 1 of 1 model routers"),
        id="both ways",
    ),
    pytest.param(POOLED, (), None, ("True", "PoolApplied", "InferencePool llama"), id="a pool"),
    pytest.param(POOLED, (), routing.NO_POOLS, ("False", "RoutingRefused", "install the CRDs"), id="no such kind"),
]


@pytest.mark.parametrize(("given", "routers", "refused", "told"), CONDITIONS)
def test_the_condition_says_whether_the_way_is_there(
    given: object, routers: tuple[RouterState, ...], refused: str | None, told: tuple[str, str, str]
) -> None:
    found = conditions.routing_ready(given, Observed(routers=routers, no_routing=refused))  # type: ignore[arg-type]
    (entry,) = conditions.as_status(found, [], 1, 0.0)
    assert (entry["type"], entry["status"], entry["reason"]) == ("RoutingReady", *told[:2])
    assert told[2] in entry["message"]


def test_model_routers_are_the_charts_and_nothing_is_made_for_them() -> None:
    assert routing.bodies(SHARED_WAY, PARTS) == []


def test_a_service_alone_has_no_such_condition() -> None:
    assert conditions.routing_ready(deployment(), Observed()) == []


SHARED = replace(ROUTED, rollout=Rollout(Strategy.CANARY, Canary(share=0.1)))
TRIAL = Progress(State.TRIAL, "old", "new", 0.0)


def test_routers_are_told_how_much_a_revision_on_trial_gets() -> None:
    shares = {"shares": [{"revision": "new", "share": "10%"}], "mirror": {"share": "0%"}}
    assert routing.guidance(SHARED, Observed(), TRIAL) == shares
    assert routing.guidance(SHARED, Observed(), replace(TRIAL, state=State.PROMOTING)) is None
    assert routing.guidance(ROUTED, Observed(), TRIAL) is None, "unset, a router spreads by load"


def test_another_way_rolls_no_pod() -> None:
    assert revisions.asked(ROUTED) == revisions.asked(POOLED) == revisions.asked(deployment())
