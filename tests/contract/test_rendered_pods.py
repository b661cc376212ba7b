"""What the operator renders, at a real API server: every field known, every value allowed by the strictest policy."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cluster import LocalCluster
from headrace_operator.auth_fields import Auth, SecretFile
from headrace_operator.decide import manifests
from headrace_operator.decide.values import Revision
from headrace_operator.gate_fields import GateReport
from headrace_operator.pod_fields import PodFields
from headrace_operator.service import InferenceDeployment, Model, Resources
from headrace_operator.sources import ClaimSource, HubSource, ImageSource, Source
from headrace_operator.tenant_fields import Tenants
from observations import EVERY_POD_FIELD, IMAGE, deployment

pytestmark = pytest.mark.cluster
SOURCES = [
    pytest.param(ClaimSource("models", "llama"), id="claim"),
    pytest.param(HubSource("meta/llama", "v2", "hub"), id="hub"),
    pytest.param(ImageSource("registry.example:5000/models/llama:8b", "checkpoint"), id="image"),
]
EVERY_AUTH = Auth(SecretFile("keys", "keys"), "tls", SecretFile("clients", "ca.crt"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("pods"), nodes=()) as running:
        running.namespace("serving")
        running.kubectl("label", "ns", "serving", "pod-security.kubernetes.io/enforce=restricted")
        running.apply(
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": "serving"},
                "value": 1,
            },
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            },
        )
        yield running


def create(cluster: LocalCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Validated and admitted, not stored. Raises ApiError, also for a field that Kubernetes does not know."""
    return cluster.api.create(f"{path}?dryRun=All&fieldValidation=Strict", body)


def a_pod(given: InferenceDeployment) -> dict[str, Any]:
    template = manifests.template(given, IMAGE)
    return manifests.pod(given, Revision("abcdef12", 1, "r", "r-uid", template["spec"], template["metadata"]), 0)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("auth", [Auth(), EVERY_AUTH], ids=["open to all", "keys and certificates"])
@pytest.mark.parametrize("fields", [PodFields(), EVERY_POD_FIELD], ids=["no fields", "every field"])
def test_a_pod_is_admitted_under_the_restricted_policy(
    cluster: LocalCluster, source: Source, fields: PodFields, auth: Auth
) -> None:
    model = Model(source, "bfloat16", "cuda", gate_report=GateReport("llama-gate"))
    given = replace(deployment(), namespace="serving", model=model, pod=fields, auth=auth)
    given = replace(given, tenants=Tenants("shares"))
    stored = create(cluster, "/api/v1/namespaces/serving/pods", a_pod(given))
    asked = manifests.pod_spec(given, IMAGE)
    assert asked.keys() <= stored["spec"].keys()
    volume = next(volume for volume in stored["spec"]["volumes"] if volume["name"] == "models")
    expected = next(volume for volume in asked["volumes"] if volume["name"] == "models")
    assert volume.keys() == expected.keys()


def test_a_pod_with_several_gpus_is_admitted(cluster: LocalCluster) -> None:
    given = replace(deployment(), namespace="serving", resources=Resources(gpus=8, cpu="8", memory="64Gi"))
    stored = create(cluster, "/api/v1/namespaces/serving/pods", a_pod(given))
    assert stored["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_the_disruption_budget_is_accepted(cluster: LocalCluster) -> None:
    given = replace(deployment(), namespace="serving")
    path = "/apis/policy/v1/namespaces/serving/poddisruptionbudgets"
    stored = create(cluster, path, manifests.disruption_budget(given))
    assert stored["spec"] == manifests.disruption_budget(given)["spec"]
