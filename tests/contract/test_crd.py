"""The custom resource at a real API server: what is refused, in whose words, and what the defaults are."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import schema
import yaml
from cluster import CommandFailed, LocalCluster
from cluster.api import ApiError
from headrace_operator.errors import InvalidSpec
from headrace_operator.gate_fields import GateReport
from headrace_operator.routing_fields import ModelRouters
from headrace_operator.service import InferenceDeployment
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
OBJECTS = "/apis/headrace.dev/v1alpha1/namespaces/default/inferencedeployments"
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("crd"), nodes=()) as running:
        schema.install(running)
        yield running


def parse(body: dict[str, Any]) -> InferenceDeployment:
    return InferenceDeployment.from_body(body)


def manifest(changes: dict[str, Any] | None = None, name: str = "chat") -> dict[str, Any]:
    """A minimal manifest, with values at dotted paths changed; None takes a field away."""
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": "pvc://models/llama"}},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place: dict[str, Any] = body
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return deepcopy(body)


OFFICE = {"name": "office", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "minReplicas": 1}
GOLD = {"prompt": "x", "answer": "y"}
NGRAM, DRAFT, HUB = {"method": "ngram"}, {"method": "draft"}, "hf://meta/llama-1b"
GUESSES = "spec.model.speculative"
REPORT = "spec.model.gateReport"
PICKED = {"spec.routing.mode": "GatewayInferencePool", "spec.routing.endpointPicker.serviceName": "epp"}
BOUNDS = {"spec.autoscaling.minReplicas": 2, "spec.autoscaling.maxReplicas": 2}


def schedule(**changes: Any) -> dict[str, Any]:
    """One schedule; None takes a field away."""
    fields = {key: value for key, value in {**OFFICE, **changes}.items() if value is not None}
    return {"spec.autoscaling.schedules": [fields]}


def adapter(**changes: str) -> dict[str, Any]:
    return {"spec.model.adapters": [{"name": "poet", "source": "pvc://models/poet", **changes}]}


REFUSED = [
    (
        "min above max",
        {"spec.autoscaling.minReplicas": 5, "spec.autoscaling.maxReplicas": 2},
        "spec.autoscaling.minReplicas",
    ),
    ("client certificates without TLS", {"spec.auth.clientCA.secretName": "clients"}, "spec.auth"),
    ("a cache of nothing", {"spec.caches.responseMiB": 0}, "spec.caches.responseMiB"),
    ("a cache for no time", {"spec.caches.ttl": "0s"}, "spec.caches.ttl"),
    ("keys from nowhere", {"spec.auth.apiKeys.key": "keys"}, "spec.auth.apiKeys.secretName"),
    ("a Secret of another namespace", {"spec.auth.tls.secretName": "other/tls"}, "spec.auth.tls.secretName"),
    ("a path for a key", {"spec.auth.apiKeys": {"secretName": "a", "key": "../a"}}, "spec.auth.apiKeys.key"),
    ("tenants of another namespace", {"spec.tenants.configMapName": "other/shares"}, "spec.tenants.configMapName"),
    ("trust that is a word", {"spec.tenants.trustHeader": "yes"}, "spec.tenants.trustHeader"),
    ("no replicas", {"spec.autoscaling.minReplicas": 0}, "spec.autoscaling.minReplicas"),
    ("no replicas at night", schedule(minReplicas=0), "spec.autoscaling.minReplicas"),
    ("never idle", {"spec.autoscaling.idleTimeout": "0s"}, "spec.autoscaling.idleTimeout"),
    ("no replicas behind a gateway", PICKED | {"spec.autoscaling.minReplicas": 0}, "spec.autoscaling.minReplicas"),
    ("an unknown way", {"spec.routing.mode": "Envoy"}, "spec.routing.mode"),
    ("no routers", {"spec.routing.replicas": 0}, "spec.routing.replicas"),
    ("model routers of no namespace", {"spec.routing.modelRouters": ["chat"]}, "spec.routing.modelRouters[0]"),
    ("no model routers", {"spec.routing.modelRouters": []}, "spec.routing.modelRouters"),
    ("model routers twice", {"spec.routing.modelRouters": ["a/b", "a/b"]}, "spec.routing.modelRouters"),
    ("model routers and a pool", PICKED | {"spec.routing.modelRouters": ["a/b"]}, "spec.routing.modelRouters"),
    (
        "certificates through model routers",
        {
            "spec.routing.modelRouters": ["a/b"],
            "spec.auth": {"tls": {"secretName": "a"}, "clientCA": {"secretName": "b"}},
        },
        "spec.auth.clientCA",
    ),
    (
        "a share of model routers",
        {"spec.routing.modelRouters": ["a/b"], "spec.rollout.canary.share": "10%"},
        "spec.rollout.canary.share",
    ),
    (
        "certificates through a router",
        {"spec.routing.mode": "Headrace", "spec.auth": {"tls": {"secretName": "a"}, "clientCA": {"secretName": "b"}}},
        "spec.auth.clientCA",
    ),
    ("a share without router", {"spec.rollout.canary.share": "10%"}, "spec.rollout.canary.share"),
    (
        "more copies than requests",
        {"spec.routing.mode": "Headrace", "spec.rollout.strategy": "Shadow", "spec.rollout.canary.share": "101%"},
        "spec.rollout.canary.share",
    ),
    (
        "more than half",
        {"spec.routing.mode": "Headrace", "spec.rollout.canary.share": "51%"},
        "spec.rollout.canary.share",
    ),
    ("held for a day", {"spec.routing.hold.timeout": "24h"}, "spec.routing.hold.timeout"),
    ("a pool without picker", {"spec.routing.mode": "GatewayInferencePool"}, "spec.routing.endpointPicker"),
    ("a picker without pool", PICKED | {"spec.routing.mode": "Headrace"}, "spec.routing.endpointPicker"),
    ("an unknown field", {"spec.autoscaling.minReplica": 2}, "spec.autoscaling.minReplica"),
    ("a negative window", {"spec.autoscaling.scaleDownWindow": "-10s"}, "spec.autoscaling.scaleDownWindow"),
    ("a window without unit", {"spec.autoscaling.scaleDownWindow": "10"}, "spec.autoscaling.scaleDownWindow"),
    ("a target of zero", {"spec.autoscaling.targets.queueWaitP95": "0s"}, "spec.autoscaling.targets.queueWaitP95"),
    ("more than all", {"spec.autoscaling.targets.utilization": "101%"}, "spec.autoscaling.targets.utilization"),
    ("an unknown mode", {"spec.autoscaling.mode": "Sometimes"}, "spec.autoscaling.mode"),
    ("no model", {"spec.model": None}, "spec.model"),
    ("no source", {"spec.model": {"dtype": "float32"}}, "spec.model.source"),
    ("another source", {"spec.model.source": "s3://bucket/x"}, "spec.model.source"),
    ("a source that climbs", {"spec.model.source": "pvc://models/../etc"}, "spec.model.source"),
    ("cuda without a GPU", {"spec.resources.gpus": 0}, "spec.resources.gpus"),
    ("weights in three bits", {"spec.model.quantization": "int3"}, "spec.model.quantization"),
    ("int8 weights on a GPU", {"spec.model.quantization": "int8"}, "spec.model.quantization"),
    ("int8 keys on a GPU", {"spec.model.kvCacheDtype": "int8"}, "spec.model.kvCacheDtype"),
    ("no bit that depends on others, on a GPU", {"spec.model.batchInvariant": True}, "spec.model.batchInvariant"),
    ("an adapter of a hub without its cache", adapter(source="hf://team/poet"), "spec.model.adapters"),
    ("an adapter from elsewhere", adapter(source="s3://bucket/x"), "spec.model.adapters[0].source"),
    ("an adapter without a name", adapter(name=""), "spec.model.adapters[0].name"),
    ("an adapter of what embeds", adapter() | {"spec.model.task": "embed"}, "spec.model.adapters"),
    ("a report from nowhere", {REPORT: {"key": "report.json"}}, f"{REPORT}.configMapName"),
    ("a report of another namespace", {REPORT: {"configMapName": "other/gate"}}, f"{REPORT}.configMapName"),
    ("a report at a path", {REPORT: {"configMapName": "gate", "key": "../a"}}, f"{REPORT}.key"),
    ("a report of what ranks", {REPORT: {"configMapName": "gate"}, "spec.model.task": "rerank"}, REPORT),
    ("a report beside adapters", {REPORT: {"configMapName": "gate"}} | adapter(), REPORT),
    ("guesses of a dice", {GUESSES: {"method": "dice"}}, f"{GUESSES}.method"),
    ("a draft without model", {GUESSES: {"method": "draft"}}, f"{GUESSES}.method"),
    ("a draft of n-grams", {GUESSES: NGRAM | {"draftModel": "small"}}, f"{GUESSES}.method"),
    ("a draft elsewhere", {GUESSES: DRAFT | {"draftModel": HUB}}, f"{GUESSES}.draftModel"),
    ("a draft that climbs", {GUESSES: DRAFT | {"draftModel": "../a"}}, f"{GUESSES}.draftModel"),
    ("many guesses", {GUESSES: NGRAM | {"tokens": 17}}, f"{GUESSES}.tokens"),
    ("no batch", {GUESSES: NGRAM | {"maxBatch": 0}}, f"{GUESSES}.maxBatch"),
    ("guesses of vectors", {"spec.model.task": "embed", GUESSES: NGRAM}, GUESSES),
    ("no quantity", {"spec.resources.memory": "much"}, "spec.resources.memory"),
    ("a negative drain", {"spec.drain.timeout": "-1s"}, "spec.drain.timeout"),
    ("a name that leaves no room for pods", {"metadata.name": "a" * 47}, "metadata.name"),
    ("a hub without its cache", {"spec.model.source": "hf://meta/llama"}, "spec.model.cacheClaim"),
    ("a cache without its hub", {"spec.model.cacheClaim": "hub"}, "spec.model.cacheClaim"),
    ("an image without tag", {"spec.model.source": "oci://registry.example/llama"}, "spec.model.source"),
    ("a path that would be expanded", {"spec.model.source": "pvc://models/$(POD_IP)"}, "spec.model.source"),
    ("no replicas asked for", {"spec.replicas": 0}, "spec.replicas"),
    ("fewer than no standby", {"spec.autoscaling.warmStandby": -1}, "spec.autoscaling.warmStandby"),
    ("a time without unit", {"spec.autoscaling.unschedulableAfter": "60"}, "spec.autoscaling.unschedulableAfter"),
    ("a negative hold", {"spec.autoscaling.metricsHold": "-1s"}, "spec.autoscaling.metricsHold"),
    ("a fallback above the maximum", {"spec.autoscaling.metricsFallback": 2}, "spec.autoscaling.metricsFallback"),
    ("a schedule that changes nothing", schedule(minReplicas=None), "spec.autoscaling.schedules[0]"),
    ("a schedule without name", schedule(name=None), "spec.autoscaling.schedules[0].name"),
    ("cron with two fields", schedule(start="0 8"), "spec.autoscaling.schedules[0].start"),
    ("cron of nothing", schedule(end=""), "spec.autoscaling.schedules[0].end"),
    ("a zone that climbs", schedule(timeZone="../UTC"), "spec.autoscaling.schedules[0].timeZone"),
    ("a schedule upside down", schedule(maxReplicas=1, minReplicas=2), "spec.autoscaling.schedules[0].minReplicas"),
    ("a schedule above the maximum", schedule(minReplicas=3), "spec.autoscaling.schedules"),
    ("a schedule below the minimum", schedule(minReplicas=None, maxReplicas=1) | BOUNDS, "spec.autoscaling.schedules"),
    ("two schedules of one name", {"spec.autoscaling.schedules": [OFFICE, OFFICE]}, "spec.autoscaling.schedules[1]"),
    ("nobody who copies requests", {"spec.rollout.strategy": "Shadow"}, "spec.rollout.strategy"),
    ("an unknown strategy", {"spec.rollout.strategy": "Recreate"}, "spec.rollout.strategy"),
    ("a canary without room", {"spec.rollout.strategy": "Canary"}, "spec.rollout.canary.replicas"),
    ("a canary without time", {"spec.rollout.canary.minDuration": "1h"}, "spec.rollout.canary.deadline"),
    ("no time to progress", {"spec.rollout.progressDeadline": "0s"}, "spec.rollout.progressDeadline"),
    ("no canary", {"spec.rollout.canary.replicas": 0}, "spec.rollout.canary.replicas"),
    ("no samples", {"spec.rollout.canary.minSamples": 0}, "spec.rollout.canary.minSamples"),
    ("a better queue", {"spec.rollout.canary.limits.queueWaitP95": "90%"}, "spec.rollout.canary.limits.queueWaitP95"),
    ("a negative rate", {"spec.rollout.canary.limits.errorRate": "-1%"}, "spec.rollout.canary.limits.errorRate"),
    ("no speed", {"spec.rollout.canary.limits.tokensPerSecond": "0%"}, "spec.rollout.canary.limits.tokensPerSecond"),
    ("no number", {"spec.rollout.canary.limits.qualityLoss": "low"}, "spec.rollout.canary.limits.qualityLoss"),
    ("a task that is none", {"spec.model.task": "classify"}, "spec.model.task"),
    (
        "gold for an embedder",
        {"spec.model.task": "embed", "spec.rollout.canary.golden": [GOLD]},
        "spec.rollout.canary.golden",
    ),
    (
        "gold for a cross-encoder",
        {"spec.model.task": "rerank", "spec.rollout.canary.golden": [GOLD]},
        "spec.rollout.canary.golden",
    ),
    ("too much gold", {"spec.rollout.canary.golden": [GOLD] * 17}, "spec.rollout.canary.golden"),
    ("no answer", {"spec.rollout.canary.golden": [{"prompt": "x"}]}, "spec.rollout.canary.golden[0].answer"),
    ("a long answer", {"spec.rollout.canary.golden": [GOLD | {"answer": "x" * 4097}]}, "canary.golden[0].answer"),
    ("no label name", {"spec.pod.nodeSelector": {"a b": "c"}}, "spec.pod.nodeSelector"),
    ("no label value", {"spec.pod.nodeSelector": {"zone": "a b"}}, "spec.pod.nodeSelector"),
    ("a toleration of nothing", {"spec.pod.tolerations": [{}]}, "spec.pod.tolerations[0].key"),
    (
        "a value of all",
        {"spec.pod.tolerations": [{"operator": "Exists", "value": "x"}]},
        "spec.pod.tolerations[0].value",
    ),
    (
        "seconds without eviction",
        {"spec.pod.tolerations": [{"key": "a", "tolerationSeconds": 5}]},
        "spec.pod.tolerations[0].tolerationSeconds",
    ),
    ("no class", {"spec.pod.priorityClassName": "High!"}, "spec.pod.priorityClassName"),
    ("no runtime", {"spec.pod.runtimeClassName": ""}, "spec.pod.runtimeClassName"),
    (
        "no skew",
        {"spec.pod.topologySpread": [{"topologyKey": "z", "maxSkew": 0}]},
        "spec.pod.topologySpread[0].maxSkew",
    ),
    ("no secret", {"spec.pod.imagePullSecrets": ["../token"]}, "spec.pod.imagePullSecrets[0]"),
    ("an unknown policy", {"spec.pod.imagePullPolicy": "Often"}, "spec.pod.imagePullPolicy"),
    ("a foreign name", {"spec.pod.env": [{"name": "LD_PRELOAD", "value": "x"}]}, "spec.pod.env[0].name"),
    ("devices by name", {"spec.pod.env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}, "spec.pod.env[0].name"),
    (
        "a value from a secret",
        {
            "spec.pod.env": [
                {"name": "NCCL_DEBUG", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
            ]
        },
        "spec.pod.env[0].valueFrom",
    ),
    ("the operator's label", {"spec.pod.labels": {"headrace.dev/routable": "true"}}, "spec.pod.labels"),
    ("Kubernetes' annotation", {"spec.pod.annotations": {"a.kubernetes.io/b": "c"}}, "spec.pod.annotations"),
    *(
        (f"an unsafe {field}", {f"spec.pod.{field}": value}, f"spec.pod.{field}")
        for field, value in {
            "hostNetwork": True,
            "hostPID": True,
            "securityContext": {"privileged": True},
            "serviceAccountName": "admin",
            "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
            "command": ["sh"],
            "containers": [],
        }.items()
    ),
]


def dry_run(cluster: LocalCluster, body: dict[str, Any]) -> dict[str, Any]:
    """What the API server would store. Raises ApiError."""
    return cluster.api.create(f"{OBJECTS}?dryRun=All&fieldValidation=Strict", body)


@pytest.mark.parametrize(("changes", "field"), [pytest.param(c, f, id=name) for name, c, f in REFUSED])
def test_a_bad_manifest_is_refused_by_the_name_of_its_field(
    cluster: LocalCluster, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(ApiError) as refused:
        dry_run(cluster, manifest(changes))
    assert refused.value.status in {400, 422}
    assert field in str(refused.value)


def test_a_client_that_validates_nothing_gets_no_unsafe_field_through(cluster: LocalCluster) -> None:
    """The API server prunes what the schema does not know."""
    unsafe = {"spec.pod.hostNetwork": True, "spec.pod.volumes": [{"name": "root", "hostPath": {"path": "/"}}]}
    stored = cluster.api.create(f"{OBJECTS}?dryRun=All&fieldValidation=Ignore", manifest(unsafe))
    assert stored["spec"]["pod"] == {}


def test_the_defaults_are_all_that_the_operator_needs(cluster: LocalCluster) -> None:
    parsed = parse(dry_run(cluster, manifest()))
    assert (parsed.scaling.min_replicas, parsed.scaling.max_replicas) == (1, 1)
    assert (parsed.scaling.queue_wait_target, parsed.scaling.utilization) == (0.5, 0.7)
    assert (parsed.scaling.scale_down_window, parsed.drain_timeout) == (300.0, 120.0)
    assert (parsed.model.device, parsed.model.dtype, parsed.resources.gpus) == ("cuda", "bfloat16", 1)
    assert (parsed.batching.max_running, parsed.batching.max_tokens_per_step, parsed.batching.max_waiting) == (
        64,
        2048,
        1024,
    )


def test_a_report_has_a_usual_key(cluster: LocalCluster) -> None:
    parsed = parse(dry_run(cluster, manifest({REPORT: {"configMapName": "gate"}})))
    assert parsed.model.gate_report == GateReport("gate", "report.json")


def test_an_embedder_may_have_a_report(cluster: LocalCluster) -> None:
    parsed = parse(dry_run(cluster, manifest({REPORT: {"configMapName": "gate"}, "spec.model.task": "embed"})))
    assert parsed.model.gate_report == GateReport("gate", "report.json")


def test_who_is_behind_model_routers_may_have_no_replica(cluster: LocalCluster) -> None:
    shared = {"spec.routing.modelRouters": ["default/chat", "team-b/chat"], "spec.autoscaling.minReplicas": 0}
    parsed = parse(dry_run(cluster, manifest(shared)))
    assert parsed.routing.model_routers == (ModelRouters("default", "chat"), ModelRouters("team-b", "chat"))
    assert parsed.scaling.min_replicas == 0


def test_what_an_older_schema_lacks_the_operator_fills_in_as_the_newer_one_does(cluster: LocalCluster) -> None:
    """Or an upgrade of the schema would change what a manifest means, and roll every pod."""
    body = dry_run(cluster, manifest())
    older = deepcopy(body)
    for path in ("rollout", "pod"):
        del older["spec"][path]
    for field in ("warmStandby", "unschedulableAfter", "metricsHold", "idleTimeout"):
        del older["spec"]["autoscaling"][field]
    assert parse(older) == parse(body)


def deployments(file: Path) -> list[dict[str, Any]]:
    """Whatever else stands in the file needs others' schemas, which test_installed_chart.py has."""
    return [body for body in yaml.safe_load_all(file.read_text()) if body["kind"] == "InferenceDeployment"]


EXAMPLES = [file for file in sorted((ROOT / "examples").glob("*.yaml")) if deployments(file)]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_are_accepted(cluster: LocalCluster, file: Path) -> None:
    options = ["--server-side", "--dry-run=server", "--validate=strict", "--output=json", "--filename=-"]
    for body in deployments(file):
        answer = json.loads(cluster.kubectl("apply", *options, stdin=json.dumps(body)))
        assert parse(answer).name == body["metadata"]["name"]


def test_the_scale_subresource_writes_replicas_and_nothing_else(cluster: LocalCluster) -> None:
    cluster.apply(manifest({"spec.autoscaling.maxReplicas": 4, "spec.autoscaling.mode": "External"}, name="scaled"))
    try:
        before = cluster.object("infdep", "scaled")["spec"]
        cluster.kubectl("scale", "infdep", "scaled", "--replicas=3")
        assert cluster.object("infdep", "scaled")["spec"] == before | {"replicas": 3}
        with pytest.raises(CommandFailed, match=r"spec\.replicas"):
            cluster.kubectl("scale", "infdep", "scaled", "--replicas=0")
    finally:
        cluster.kubectl("delete", "infdep", "scaled")


DURATIONS = st.sampled_from(["0s", "1ms", "500ms", "1.5h", "1m30s", "10", "-1s", "1d", "", "0.0s"])
PERCENTAGES = st.sampled_from(["0%", "1%", "0.5%", "70%", "100%", "150%", "1000%", "1001%", "7", "-1%", "00%"])
COUNTS = st.integers(-1, 4) | st.sampled_from([1000, 1001])
NAMES = st.sampled_from(
    ["a", "a/b", "A.b_c", "headrace.dev/a", "x.k8s.io/a", "-a", "a/", "/a", "nvidia.com/gpu", "a b", ""]
)
WORDS = st.sampled_from(["", "a", "A-b", "true", "x" * 63, "x" * 64, "-"])
SOURCES = st.sampled_from(
    [
        "pvc://m/a",
        "pvc://m/a/",
        "pvc://m//a",
        "pvc://M/a",
        "pvc://m/a b",
        "pvc://m",
        "hf://a/b",
        "hf://a/b@v1",
        "hf://a",
        "oci://r/a:v1",
        "oci://r/a:v1//m",
        "oci://r/a:v1/m",
        "oci://r:5000/a/b:v1",
        f"oci://r/a@sha256:{'0' * 64}",
        "oci://a",
    ]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model.source": SOURCES,
    "model.cacheClaim": st.sampled_from(["hub", "Hub", ""]),
    "image": st.sampled_from(["a:1", ""]),
    "replicas": COUNTS,
    "resources.gpus": COUNTS,
    "resources.cpu": st.sampled_from(["4", "500m", "0", "-1", "many", ""]),
    "autoscaling.minReplicas": COUNTS,
    "autoscaling.maxReplicas": COUNTS,
    "autoscaling.targets.queueWaitP95": DURATIONS,
    "autoscaling.targets.utilization": PERCENTAGES,
    "autoscaling.mode": st.sampled_from(["Auto", "Shadow", "Paused", "External", "auto"]),
    "autoscaling.warmStandby": COUNTS,
    "autoscaling.unschedulableAfter": DURATIONS,
    "autoscaling.metricsHold": DURATIONS,
    "autoscaling.metricsFallback": COUNTS,
    "autoscaling.schedules": st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(["a", "b", "C"]), "start": st.just("0 8 * * 1-5"), "end": st.just("0 18 * * 1-5")},
            optional={"minReplicas": COUNTS, "maxReplicas": COUNTS},
        ),
        max_size=3,
    ),
    "rollout.strategy": st.sampled_from(["Rolling", "Canary", "Shadow"]),
    "rollout.progressDeadline": DURATIONS,
    "rollout.canary.replicas": COUNTS,
    "rollout.canary.minDuration": DURATIONS,
    "rollout.canary.deadline": DURATIONS,
    "rollout.canary.limits.queueWaitP95": PERCENTAGES,
    "rollout.canary.limits.errorRate": PERCENTAGES,
    "rollout.canary.limits.tokensPerSecond": PERCENTAGES,
    "rollout.canary.limits.qualityLoss": st.sampled_from(["0", "0.05", "10", ".5", "1e3", ""]),
    "drain.timeout": DURATIONS,
    "pod.nodeSelector": st.dictionaries(NAMES, WORDS, max_size=2),
    "pod.labels": st.dictionaries(NAMES, WORDS, max_size=2),
    "pod.env": st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(["NCCL_DEBUG", "OMP_", "HF_TOKEN", "OMP_NUM_THREADS"]), "value": WORDS}
        ),
        max_size=2,
    ),
    "pod.tolerations": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "key": NAMES,
                "operator": st.sampled_from(["Equal", "Exists", "Lt"]),
                "value": WORDS,
                "effect": st.sampled_from(["NoSchedule", "NoExecute"]),
                "tolerationSeconds": COUNTS,
            },
        ),
        max_size=2,
    ),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_the_schema_accepts_the_operator_understands(cluster: LocalCluster, data: st.DataObject) -> None:
    """Cron and time zones apart, which only the operator can look into; tests/operator/test_service.py does."""
    chosen = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True), label="fields")
    changes = {f"spec.{field}": data.draw(FIELDS[field], label=field) for field in chosen}
    try:
        stored = dry_run(cluster, manifest(changes))
    except ApiError as refused:
        if refused.status != 422:
            raise
        return
    try:
        parse(stored)
    except InvalidSpec as refusal:
        raise AssertionError(f"the API server stores what the operator refuses: {refusal}") from refusal
