"""The chart, installed again under another name, gives routers a role of that name: at a real API server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import schema
import yaml
from chart import CHART, helm, of_kind
from cluster import LocalCluster
from deployments import manifest
from headrace_operator.act.apply import Hands, Outcome, Target, apply
from headrace_operator.act.drainer import Drainer
from headrace_operator.act.events import Recorder
from headrace_operator.decide import routing
from headrace_operator.decide.routing import RouterParts
from headrace_operator.kube import Kube, configuration
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.observe.standing import Standing
from headrace_operator.routing_fields import Routing, RoutingMode
from headrace_operator.service import InferenceDeployment
from headrace_operator.settings import Settings
from observations import IMAGE, deployment
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.cluster
BEFORE, AFTER = "headrace-router", "prod-headrace-router"
NAME = "llama"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("renamed"), nodes=()) as running:
        schema.install(running)
        running.apply(manifest(NAME))
        yield running


async def test_a_binding_of_the_old_name_is_replaced_by_one_of_the_new(cluster: LocalCluster) -> None:
    uid = cluster.object("infdep", NAME)["metadata"]["uid"]
    given = replace(deployment(), name=NAME, uid=uid, routing=Routing(RoutingMode.HEADRACE))
    settings = Settings((), "image", "lease", "default", "me", 1.0, "127.0.0.1", 0, Path(), cluster.kubeconfig)
    async with Kube(await configuration(settings, {})) as api, aiohttp.ClientSession() as session:
        metrics = OperatorMetrics(CollectorRegistry())
        hands = Hands(api, Recorder(api, metrics, "operator-0"), Drainer(session, timeout=2.0))
        assert (await look(hands, given, BEFORE, is_due=True)).no_routing is None
        assert role(cluster) == BEFORE
        # Who does not know the old one is told by the API server what is in the way, and finds it by its next list.
        assert "roleRef" in str((await look(hands, given, AFTER, is_due=True, knows=False)).no_routing)
        assert (await look(hands, given, AFTER, is_due=False)).no_routing is None
    assert role(cluster) == AFTER


async def look(hands: Hands, given: InferenceDeployment, role: str, *, is_due: bool, knows: bool = True) -> Outcome:
    """What an operator of a release does whose routers have this role."""
    standing = Standing(hands.api, ("default",))
    if knows:
        await standing.look()
    actions = routing.plan(given, RouterParts(IMAGE, role), standing.children(given.uid), is_due=is_due)
    return await apply(hands, Target("default", given.name, given.uid), actions, now=1000.0)


def role(cluster: LocalCluster) -> str:
    body: dict[str, Any] = cluster.object("rolebinding", f"{NAME}-router")
    return cast(str, body["roleRef"]["name"])


def test_each_name_of_a_release_has_a_role_that_the_operator_is_told() -> None:
    for release, full in (("headrace", "headrace"), ("prod", "prod-headrace")):
        done = helm("template", release, CHART)
        bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
        (operator,) = of_kind(bodies, "Deployment")
        assert f"--router-role={full}-router" in operator["spec"]["template"]["spec"]["containers"][0]["args"]
        assert f"{full}-router" in {body["metadata"]["name"] for body in of_kind(bodies, "ClusterRole")}
