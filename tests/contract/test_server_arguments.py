"""What the operator renders into a pod, the server's own command line accepts, number for number."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import headrace_server.__main__ as server
import pytest
from gate_reports import key_pair, line
from headrace_operator.__main__ import gate_key
from headrace_operator.auth_fields import Auth, SecretFile
from headrace_operator.cache_fields import Caches
from headrace_operator.decide import manifests
from headrace_operator.fields import Section
from headrace_operator.gate_fields import GateReport
from headrace_operator.service import Batching, InferenceDeployment, Model, Resources, Scaling, Task
from headrace_operator.sources import Adapter, ClaimSource, HubSource, ImageSource, Source
from headrace_operator.speculative_fields import speculative
from headrace_operator.tenant_fields import Tenants
from headrace_server.access_options import access_from
from headrace_server.cache_options import caches_from
from headrace_server.config import AccessConfig, CacheConfig, GateConfig, SpeculativeConfig, SpeculativeMethod, TlsFiles
from headrace_server.gate_options import gate_from
from headrace_server.lora_options import lora_from
from headrace_server.speculative_options import speculative_from

DEPLOYMENT = InferenceDeployment(
    namespace="default",
    name="chat",
    uid="u",
    generation=1,
    model=Model(source=ClaimSource("models", "llama/8b"), dtype="bfloat16", device="cuda"),
    resources=Resources(gpus=1),
    scaling=Scaling(1, 4, 0.5, 0.7, 300.0),
    batching=Batching(max_running=7, max_tokens_per_step=300, max_waiting=11, window=0.01, offline_reserve=0.2),
    drain_timeout=90.0,
)


def rendered(deployment: InferenceDeployment = DEPLOYMENT, *, gate_keys: tuple[str, ...] = ()) -> dict[str, Any]:
    container: dict[str, Any] = manifests.pod_spec(deployment, "headrace-server:1", gate_keys)["containers"][0]
    return container


def parsed(deployment: InferenceDeployment = DEPLOYMENT, *, gate_keys: tuple[str, ...] = ()) -> argparse.Namespace:
    container = rendered(deployment, gate_keys=gate_keys)
    assert container["command"] == ["headrace"]
    assert container["args"][0] == "serve"
    parser = argparse.ArgumentParser(exit_on_error=False)
    server.register(parser)
    return parser.parse_args(container["args"][1:])


def test_every_argument_arrives() -> None:
    options = parsed()
    assert str(options.model) == "/models/llama/8b"
    assert (options.name, options.device, options.dtype) == ("chat", "cuda", "bfloat16")
    assert (options.max_running, options.max_tokens_per_step, options.max_waiting) == (7, 300, 11)
    assert (options.batching_window, options.offline_reserve) == (0.01, 0.2)
    assert options.drain_timeout == 90.0


def test_each_task_is_asked_for_by_name_and_pods_that_generate_stay_as_they_are() -> None:
    for task in Task:
        assert parsed(replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, task=task))).task == task.value
    assert parsed().task == "generate"
    assert not any("--task" in word for word in rendered()["args"])


def test_fewer_bits_are_asked_for_by_name_and_pods_without_stay_as_they_are() -> None:
    model = replace(DEPLOYMENT.model, device="cpu", quantization="int4", kv_cache_dtype="int8")
    options = parsed(replace(DEPLOYMENT, model=model))
    assert (options.quantization, options.kv_cache_dtype) == ("int4", "int8")
    assert (parsed().quantization, parsed().kv_cache_dtype) == (None, "auto")
    assert not any("quantization" in word or "kv-cache" in word for word in rendered()["args"])


def test_adapters_arrive_with_their_folders_and_pods_without_stay_as_they_are() -> None:
    adapters = (
        Adapter("poet", ClaimSource("models", "lora/poet")),
        Adapter("team/clerk", ClaimSource("others", "clerk")),
        Adapter("guide", ImageSource("registry.example/guide:1", "")),
        Adapter("mute", HubSource("team/mute", "v1", "hub")),
    )
    deployment = replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, adapters=adapters))
    assert parsed(deployment).lora == [
        "poet=/models/lora/poet", "team/clerk=/adapters/1/clerk", "guide=/adapters/2", "mute=hf://team/mute@v1"
    ]  # fmt: skip
    pod = manifests.pod_spec(deployment, "headrace-server:1")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["adapter-1"]["persistentVolumeClaim"] == {"claimName": "others", "readOnly": True}
    assert volumes["adapter-2"]["image"] == {"reference": "registry.example/guide:1"}
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert [mounts[f"adapter-{n}"]["mountPath"] for n in (1, 2)] == ["/adapters/1", "/adapters/2"]
    assert {name for name in volumes if "adapter" in name} == {"adapter-1", "adapter-2"}
    assert lora_from(parsed(replace(deployment, model=replace(deployment.model, adapters=adapters[:3])))).names == (
        "poet", "team/clerk", "guide"
    )  # fmt: skip
    assert parsed().lora == []


def test_batch_invariance_arrives_and_pods_without_stay_as_they_are() -> None:
    model = replace(DEPLOYMENT.model, device="cpu", batch_invariant=True)
    assert parsed(replace(DEPLOYMENT, model=model)).batch_invariant
    assert "--batch-invariant" not in rendered()["args"]


@pytest.mark.parametrize(
    ("source", "draft", "place"),
    [
        pytest.param(ClaimSource("models", "llama/8b"), "llama/1b", "/models/llama/1b", id="same claim"),
        pytest.param(ImageSource("registry.example/llama:8b", "8b"), "1b", "/models/1b", id="same image"),
    ],
)
def test_tokens_are_guessed_ahead_as_the_manifest_says(source: Source, draft: str, place: str) -> None:
    wanted = speculative(Section({"method": "draft", "draftModel": draft, "tokens": 3, "maxBatch": 8}, "spec"), source)
    options = parsed(replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, source=source, speculative=wanted)))
    found = speculative_from(options)
    assert found == SpeculativeConfig(SpeculativeMethod.DRAFT, 3, 8, Path(place))


def test_a_draft_model_of_a_hub_is_looked_up_in_the_same_cache() -> None:
    source = HubSource("meta/llama-8b", None, "hub")
    wanted = speculative(Section({"method": "draft", "draftModel": "hf://meta/llama-1b@v2"}, "spec"), source)
    options = parsed(replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, source=source, speculative=wanted)))
    assert (options.draft_model, str(options.hub_cache)) == ("hf://meta/llama-1b@v2", "/models")
    assert (options.speculative_tokens, options.speculative_max_batch) == (None, None)


def test_pods_that_guess_nothing_stay_as_they_are() -> None:
    assert speculative_from(parsed()) is None
    assert not any("speculative" in word or "draft" in word for word in rendered()["args"])
    ngram = speculative(Section({"method": "ngram"}, "spec"), DEPLOYMENT.model.source)
    options = parsed(replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, speculative=ngram)))
    assert speculative_from(options) == SpeculativeConfig(SpeculativeMethod.NGRAM)


@pytest.mark.parametrize(
    ("source", "model", "hub_cache"),
    [
        (HubSource("meta/llama", "v2", "hub"), "hf://meta/llama@v2", "/models"),
        (HubSource("meta/llama", None, "hub"), "hf://meta/llama", "/models"),
        (ImageSource("registry.example/llama:8b", ""), "/models", "None"),
    ],
    ids=["a revision of a hub", "a hub", "an image"],
)
def test_a_source_arrives_as_the_server_reads_it(source: Source, model: str, hub_cache: str) -> None:
    options = parsed(replace(DEPLOYMENT, model=Model(source, "bfloat16", "cuda")))
    assert (options.model, str(options.hub_cache)) == (model, hub_cache)


def test_several_gpus_arrive_as_a_tensor_parallel_size() -> None:
    assert parsed().tensor_parallel_size == 1
    assert parsed(replace(DEPLOYMENT, resources=Resources(gpus=4))).tensor_parallel_size == 4


def test_the_ports_are_those_of_container_service_and_probes() -> None:
    options, container = parsed(), rendered()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": options.grpc_port, "http": options.http_port, "admin": options.admin_port}
    service = manifests.service(DEPLOYMENT)["spec"]["ports"]
    assert {port["name"]: port["port"] for port in service} == {name: ports[name] for name in ("grpc", "http")}
    assert {port["targetPort"] for port in service} == {"grpc", "http"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"


def test_who_may_ask_arrives_and_a_pod_without_it_says_so() -> None:
    def access(auth: Auth) -> AccessConfig:
        options = parsed(replace(DEPLOYMENT, auth=auth))
        options.host = "203.0.113.7"  # what the kubelet puts in for $(POD_IP)
        return access_from(options)

    assert access(Auth()) == AccessConfig()
    tls = TlsFiles(*map(Path, ("/etc/headrace/tls/tls.crt", "/etc/headrace/tls/tls.key")))
    mutual = replace(tls, client_ca=Path("/etc/headrace/client-ca/ca.crt"))
    keys = SecretFile("chat-keys", "keys")
    assert access(Auth(keys, "chat-tls")) == AccessConfig(Path("/etc/headrace/api-keys/keys"), tls)
    assert access(Auth(None, "chat-tls", SecretFile("clients", "ca.crt"))) == AccessConfig(None, mutual)


def test_tenants_arrive() -> None:
    assert (parsed().tenants, parsed().trust_tenant_header) == (None, False)
    options = parsed(replace(DEPLOYMENT, tenants=Tenants("shares", trust_header=True)))
    assert (options.tenants, options.trust_tenant_header) == (Path("/etc/headrace/tenants/tenants.json"), True)


def test_a_report_of_the_gate_arrives_with_who_may_sign_it(tmp_path: Path) -> None:
    key = line(key_pair(tmp_path, "release")[1])
    deployment = replace(DEPLOYMENT, model=replace(DEPLOYMENT.model, gate_report=GateReport("llama-gate")))
    found = gate_from(parsed(deployment, gate_keys=(key,)))
    report = Path("/etc/headrace/gate-report/llama-gate/report.json")
    assert found == GateConfig(report, (key,), ("--device=cuda", "--dtype=bfloat16", "--max-running=7"))
    assert gate_from(parsed(deployment)) == replace(found, public_keys=())
    assert gate_from(parsed()) is None


def test_a_key_that_the_server_reads_the_operator_takes_and_no_other(tmp_path: Path) -> None:
    key = line(key_pair(tmp_path, "release")[1])
    assert gate_key(key) == key
    for wrong in (key[1:], f"{key}=", "release.pub", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="must be an Ed25519 public key, not"):
            gate_key(wrong)


def test_caches_arrive_and_are_off_unless_asked_for() -> None:
    assert caches_from(parsed()) == CacheConfig()
    asked = replace(DEPLOYMENT, caches=Caches(response_mib=64, embedding_mib=8, ttl=90.5))
    assert caches_from(parsed(asked)) == CacheConfig(64 * 2**20, 8 * 2**20, 90.5)


def test_the_pod_outlives_the_servers_drain() -> None:
    spec = manifests.pod_spec(DEPLOYMENT, "headrace-server:1")
    assert spec["terminationGracePeriodSeconds"] > parsed().drain_timeout


def test_the_pod_says_where_a_refusal_goes() -> None:
    assert {"name": "HEADRACE_TERMINATION_LOG", "value": "/dev/termination-log"} in rendered()["env"]
