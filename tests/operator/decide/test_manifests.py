from headrace_operator.decide import manifests
from headrace_operator.service import Batching, InferenceDeployment, Resources
from observations import IMAGE, deployment, recorded


def container(given: InferenceDeployment) -> manifests.Body:
    (only,) = manifests.pod_spec(given, IMAGE)["containers"]
    return only


def test_a_pod_runs_the_server_with_what_the_manifest_says() -> None:
    given = deployment(batching=Batching(max_running=8, max_tokens_per_step=512, max_waiting=99), drain_timeout=45.5)
    server = container(given)
    assert (server["name"], server["image"], server["command"]) == ("server", IMAGE, ["headrace"])
    assert server["args"] == [
        "serve",
        "--model=/models/llama-3.1-8b",
        "--name=llama",
        "--host=$(POD_IP)",
        "--grpc-port=50051",
        "--http-port=8000",
        "--device=cuda",
        "--dtype=bfloat16",
        "--max-running=8",
        "--max-tokens-per-step=512",
        "--max-waiting=99",
        "--drain-timeout=45.5",
    ]
    assert manifests.pod_spec(given, IMAGE)["terminationGracePeriodSeconds"] == 56


def test_the_model_is_mounted_read_only_from_its_claim() -> None:
    spec = manifests.pod_spec(deployment(), IMAGE)
    claims = [volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "models", "readOnly": True}]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(deployment())["volumeMounts"]


def test_a_pod_belongs_to_its_deployment_and_is_routed() -> None:
    metadata = manifests.pod(deployment(), recorded(), 7)["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceDeployment", "cr-uid", True)
    revision = recorded().hash
    assert metadata["name"] == f"llama-{revision[:5]}-7"
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "headrace-server",
        "app.kubernetes.io/instance": "llama",
        "app.kubernetes.io/managed-by": "headrace",
        "headrace.dev/deployment": "llama",
        "headrace.dev/routable": "true",
        "headrace.dev/revision": revision,
        "headrace.dev/ordinal": "7",
    }


def test_the_service_selects_what_is_routed() -> None:
    service = manifests.service(deployment())
    assert service["spec"]["selector"] == {"headrace.dev/deployment": "llama", "headrace.dev/routable": "true"}
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("grpc", 50051), ("http", 8000)]
    labels = manifests.pod(deployment(), recorded(), 0)["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_no_gpu_is_asked_for_where_none_is_wanted() -> None:
    assert container(deployment(resources=Resources(gpus=2)))["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    bare = container(deployment(resources=Resources(gpus=0, cpu="2", memory="4Gi")))
    assert bare["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}}


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    """The restricted Pod Security Standard."""
    spec = manifests.pod_spec(deployment(), IMAGE)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container(deployment())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
