from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.auth_fields import Auth, SecretFile
from headrace_operator.decide import manifests
from headrace_operator.gate_fields import GateReport
from headrace_operator.observe.revisions import recorded as observed_revisions
from headrace_operator.pod_fields import PodFields
from headrace_operator.service import Batching, InferenceDeployment, Model, Resources, Schedule
from headrace_operator.sources import ClaimSource, HubSource, ImageSource, Source
from observations import EVERY_POD_FIELD, IMAGE, deployment, recorded, scaling


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
        "--admin-port=9090",
        "--device=cuda",
        "--dtype=bfloat16",
        "--max-running=8",
        "--max-tokens-per-step=512",
        "--max-waiting=99",
        "--drain-timeout=45.5",
        "--allow-unauthenticated",
    ]
    assert manifests.pod_spec(given, IMAGE)["terminationGracePeriodSeconds"] == 56


KEYS, CA = SecretFile("chat-keys", "keys"), SecretFile("clients", "ca.crt")


@pytest.mark.parametrize(
    ("auth", "words", "secrets"),
    [
        pytest.param(
            Auth(api_keys=KEYS),
            ["--api-keys=/etc/headrace/api-keys/keys"],
            {"/etc/headrace/api-keys": "chat-keys"},
            id="keys",
        ),
        pytest.param(
            Auth(tls="chat-tls"),
            ["--allow-unauthenticated", "--tls-cert=/etc/headrace/tls/tls.crt", "--tls-key=/etc/headrace/tls/tls.key"],
            {"/etc/headrace/tls": "chat-tls"},
            id="TLS, which says nothing of who asks",
        ),
        pytest.param(
            Auth(tls="chat-tls", client_ca=CA),
            [
                "--tls-cert=/etc/headrace/tls/tls.crt",
                "--tls-key=/etc/headrace/tls/tls.key",
                "--tls-client-ca=/etc/headrace/client-ca/ca.crt",
            ],
            {"/etc/headrace/tls": "chat-tls", "/etc/headrace/client-ca": "clients"},
            id="mutual TLS",
        ),
    ],
)
def test_secrets_are_mounted_and_named_to_the_server(auth: Auth, words: list[str], secrets: dict[str, str]) -> None:
    spec = manifests.pod_spec(deployment(auth=auth), IMAGE)
    (server,) = spec["containers"]
    about = ("--allow", "--api-keys", "--tls")
    assert [word for word in server["args"] if word.startswith(about)] == words
    names = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"] if mount["name"] in names}
    assert {folder: names[mount["name"]] for folder, mount in mounts.items()} == secrets
    assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts.values())


def test_a_report_that_is_not_there_keeps_no_pod_waiting_and_its_config_map_is_in_the_servers_words() -> None:
    model = replace(deployment().model, gate_report=GateReport("llama-gate"))
    spec = manifests.pod_spec(deployment(model=model), IMAGE, ("KEY",))
    (server,) = spec["containers"]
    assert {"name": "gate-report", "configMap": {"name": "llama-gate", "optional": True}} in spec["volumes"]
    folder = "/etc/headrace/gate-report/llama-gate"
    assert {"name": "gate-report", "mountPath": folder, "readOnly": True} in server["volumeMounts"]
    assert server["args"][-2:] == [f"--gate-report={folder}/report.json", "--gate-public-key=KEY"]


def test_pods_without_a_report_stay_as_they_are_whatever_keys_there_are() -> None:
    assert manifests.pod_spec(deployment(), IMAGE, ("KEY",)) == manifests.pod_spec(deployment(), IMAGE)


def test_a_service_says_that_its_pods_speak_tls() -> None:
    def protocols(auth: Auth) -> list[str]:
        return [port["appProtocol"] for port in manifests.service(deployment(auth=auth))["spec"]["ports"]]

    assert protocols(Auth()) == ["kubernetes.io/h2c", "http"]
    assert protocols(Auth(tls="chat-tls")) == ["https", "https"]


def served_from(source: Source, **changes: Any) -> InferenceDeployment:
    return deployment(model=Model(source, "bfloat16", "cuda"), **changes)


@pytest.mark.parametrize(
    ("source", "volume", "words"),
    [
        pytest.param(
            ClaimSource("models", "llama/8b"),
            {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            ["--model=/models/llama/8b"],
            id="a claim",
        ),
        pytest.param(
            HubSource("meta/llama", None, "cache"),
            {"persistentVolumeClaim": {"claimName": "cache", "readOnly": True}},
            ["--model=hf://meta/llama", "--hub-cache=/models"],
            id="a Hugging Face cache",
        ),
        pytest.param(
            HubSource("meta/llama", "v2", "cache"),
            {"persistentVolumeClaim": {"claimName": "cache", "readOnly": True}},
            ["--model=hf://meta/llama@v2", "--hub-cache=/models"],
            id="a revision in it",
        ),
        pytest.param(
            ImageSource("registry.example/llama:8b", ""),
            {"image": {"reference": "registry.example/llama:8b"}},
            ["--model=/models"],
            id="an image",
        ),
        pytest.param(
            ImageSource("registry.example/llama:8b", "hf/8b"),
            {"image": {"reference": "registry.example/llama:8b"}},
            ["--model=/models/hf/8b"],
            id="a folder of an image",
        ),
    ],
)
def test_a_model_is_mounted_read_only_from_wherever_it_lies(
    source: Source, volume: dict[str, Any], words: list[str]
) -> None:
    given = served_from(source)
    assert {"name": "models", **volume} in manifests.pod_spec(given, IMAGE)["volumes"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(given)["volumeMounts"]
    assert [word for word in container(given)["args"] if word.startswith(("--model", "--hub-cache"))] == words


FIELDS = replace(EVERY_POD_FIELD, labels=(("team", "a"), ("headrace.dev/deployment", "not mine")))


def test_pod_fields_stand_where_kubernetes_has_them() -> None:
    spec = manifests.pod_spec(deployment(pod=FIELDS), IMAGE)
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "H200"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a", "effect": "NoExecute", "tolerationSeconds": 60},
        {"operator": "Exists"},
    ]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("serving", "nvidia")
    assert spec["topologySpreadConstraints"] == [
        {
            "topologyKey": "topology.kubernetes.io/zone",
            "maxSkew": 2,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"headrace.dev/deployment": "llama"}},
        }
    ]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert container(deployment(pod=FIELDS))["imagePullPolicy"] == "Always"


def test_what_a_manifest_does_not_say_is_left_to_kubernetes() -> None:
    """An empty list or a null would be owned by the operator, and nobody else could set it."""
    spec = manifests.pod_spec(deployment(), IMAGE)
    own = {"nodeSelector", "priorityClassName", "runtimeClassName", "topologySpreadConstraints", "imagePullSecrets"}
    assert not own & spec.keys()
    assert "imagePullPolicy" not in container(deployment())


def test_a_pods_own_labels_go_through_its_record_and_never_replace_the_operators() -> None:
    given = deployment(pod=FIELDS)
    record = {
        "metadata": manifests.record_metadata(given, "abcdef12") | {"uid": "record-uid"},
        "revision": 1,
        "data": manifests.template(given, IMAGE),
    }
    (revision,) = observed_revisions([record], given.uid)
    metadata = manifests.pod(given, revision, 0)["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["headrace.dev/deployment"] == "llama"
    assert metadata["annotations"] == {"example.com/owner": "a@example.com"}


def environment(given: InferenceDeployment) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(given)["env"] if "value" in entry}


@pytest.mark.parametrize(
    ("device", "cpu", "own", "threads"),
    [
        pytest.param("cpu", "4", (), "4", id="whole cores"),
        pytest.param("cpu", "500m", (), None, id="a part of a core"),
        pytest.param("cpu", None, (), None, id="as many as there are"),
        pytest.param("cuda", "4", (), None, id="a GPU computes"),
        pytest.param("cpu", "4", (("OMP_NUM_THREADS", "2"),), "2", id="the manifest says so"),
    ],
)
def test_a_cpu_pod_starts_as_many_threads_as_it_has_cores(
    device: str, cpu: str | None, own: tuple[tuple[str, str], ...], threads: str | None
) -> None:
    model = Model(ClaimSource("models", "llama"), "float32", device)
    given = deployment(model=model, resources=Resources(1, cpu), pod=PodFields(env=own))
    assert environment(given).get("OMP_NUM_THREADS") == threads


def test_no_name_is_set_twice_in_the_environment() -> None:
    """Server-side apply refuses a list with a key twice."""
    names = [entry["name"] for entry in container(deployment(pod=FIELDS))["env"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("gpus", "words"), [(0, []), (1, []), (2, ["--tensor-parallel-size=2"]), (8, ["--tensor-parallel-size=8"])]
)
def test_several_gpus_are_asked_to_compute_together(gpus: int, words: list[str]) -> None:
    given = deployment(resources=Resources(gpus=gpus))
    assert [word for word in container(given)["args"] if "parallel" in word] == words


@pytest.mark.parametrize(
    ("least", "in_schedules", "available"),
    [
        pytest.param(3, (), 3, id="the floor"),
        pytest.param(3, (5, None), 3, id="schedules that raise it"),
        pytest.param(3, (1, 5), 1, id="a schedule that lowers it"),
    ],
)
def test_an_eviction_leaves_the_least_that_is_ever_promised(
    least: int, in_schedules: tuple[int | None, ...], available: int
) -> None:
    schedules = tuple(
        Schedule(f"s{index}", "0 8 * * *", "0 18 * * *", "UTC", bound) for index, bound in enumerate(in_schedules)
    )
    given = deployment(scaling=scaling(min_replicas=least, schedules=schedules))
    budget = manifests.disruption_budget(given)
    assert (budget["apiVersion"], budget["kind"]) == ("policy/v1", "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == available
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["spec"]["selector"]["matchLabels"] == manifests.service(given)["spec"]["selector"]
    assert [owner["uid"] for owner in budget["metadata"]["ownerReferences"]] == ["cr-uid"]


def test_a_pod_belongs_to_its_deployment_and_is_routed() -> None:
    metadata = manifests.pod(deployment(), recorded(), 7)["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceDeployment", "cr-uid", True)
    revision = recorded().hash
    assert metadata["name"] == f"llama-{revision[:5]}-7"
    assert (
        metadata["labels"].items()
        >= {
            "app.kubernetes.io/name": "headrace-server",
            "app.kubernetes.io/instance": "llama",
            "app.kubernetes.io/managed-by": "headrace",
            "headrace.dev/deployment": "llama",
            "headrace.dev/routable": "true",
            "headrace.dev/revision": revision,
            "headrace.dev/ordinal": "7",
        }.items()
    )


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
