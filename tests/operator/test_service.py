from typing import Any
from zoneinfo import available_timezones

import pytest
from headrace_operator.auth_fields import Auth, SecretFile
from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section, duration, percent
from headrace_operator.gate_fields import GateReport
from headrace_operator.pod_fields import PodFields, Spread, Toleration
from headrace_operator.service import (
    Canary,
    GoldenPrompt,
    InferenceDeployment,
    Mode,
    Model,
    Resources,
    Rollout,
    Schedule,
    Strategy,
)
from headrace_operator.sources import Adapter, ClaimSource, HubSource, ImageSource, Source
from headrace_operator.tenant_fields import Tenants
from hypothesis import given
from hypothesis import strategies as st

BATCHING = {"maxRunning": 64, "maxTokensPerStep": 2048, "maxWaiting": 1024}


def body(**spec: Any) -> dict[str, Any]:
    """As the API server hands it out: with every default filled in."""
    defaults: dict[str, Any] = {
        "model": {"source": "pvc://models/llama/8b", "task": "generate", "dtype": "bfloat16", "device": "cuda"},
        "resources": {"gpus": 1},
        "autoscaling": {
            "minReplicas": 2,
            "maxReplicas": 16,
            "targets": {"queueWaitP95": "500ms", "utilization": "70%"},
            "scaleDownWindow": "5m",
            "mode": "Auto",
        },
        "batching": BATCHING,
        "drain": {"timeout": "2m"},
        "rollout": {},
        "pod": {},
    }
    merged = {name: {**value, **spec.get(name, {})} for name, value in defaults.items()}
    merged |= {name: value for name, value in spec.items() if name not in defaults}
    metadata = {"namespace": "default", "name": "llama", "uid": "u1", "generation": 4}
    return {"metadata": metadata, "spec": merged}


def test_a_manifest_becomes_seconds_and_shares() -> None:
    deployment = InferenceDeployment.from_body(body())
    assert deployment.model == Model(ClaimSource("models", "llama/8b"), "bfloat16", "cuda")
    assert deployment.resources == Resources(gpus=1)
    assert deployment.scaling.queue_wait_target == 0.5
    assert deployment.scaling.utilization == 0.7
    assert deployment.scaling.scale_down_window == 300
    assert deployment.scaling.mode is Mode.AUTO
    assert deployment.drain_timeout == 120
    assert (deployment.generation, deployment.image) == (4, None)


OFFICE = {"name": "office", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "minReplicas": 4}


def scheduled(**changes: Any) -> dict[str, Any]:
    """The autoscaling of one schedule; None takes a field away."""
    schedule = {key: value for key, value in {**OFFICE, **changes}.items() if value is not None}
    return {"autoscaling": {"schedules": [schedule]}}


def test_what_an_older_schema_does_not_know_has_its_usual_value() -> None:
    deployment = InferenceDeployment.from_body(body())
    assert (deployment.rollout, deployment.pod) == (Rollout(), PodFields())
    scaling = deployment.scaling
    assert (scaling.warm_standby, scaling.schedules, scaling.metrics_fallback, scaling.replicas) == (0, (), None, None)
    assert (scaling.unschedulable_after, scaling.metrics_hold) == (60.0, 120.0)


def test_scaling_that_says_everything() -> None:
    zone = scheduled(timeZone="Europe/Berlin", maxReplicas=30)["autoscaling"]
    given = {
        "mode": "External",
        "warmStandby": 2,
        "unschedulableAfter": "90s",
        "metricsHold": "5m",
        "metricsFallback": 3,
    }
    scaling = InferenceDeployment.from_body(body(autoscaling=zone | given, replicas=7)).scaling
    assert scaling.schedules == (Schedule("office", "0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", 4, 30),)
    assert (scaling.mode, scaling.replicas, scaling.warm_standby) == (Mode.EXTERNAL, 7, 2)
    assert (scaling.unschedulable_after, scaling.metrics_hold, scaling.metrics_fallback) == (90.0, 300.0, 3)


def test_a_canary_that_says_everything() -> None:
    limits = {"queueWaitP95": "200%", "errorRate": "0.5%", "tokensPerSecond": "90%", "qualityLoss": "0.1"}
    canary = {
        "replicas": 2,
        "minSamples": 100,
        "minDuration": "5m",
        "deadline": "2h",
        "limits": limits,
        "golden": [{"prompt": "In the beginning", "answer": " God created"}],
    }
    rollout = InferenceDeployment.from_body(body(rollout={"strategy": "Canary", "canary": canary})).rollout
    golden = (GoldenPrompt("In the beginning", " God created"),)
    assert rollout == Rollout(Strategy.CANARY, Canary(2, 100, 300.0, 7200.0, 2.0, 0.005, 0.9, golden, 0.1))


def test_all_requests_may_be_copied_and_half_of_them_served_by_what_is_on_trial() -> None:
    routed = {"routing": {"mode": "Headrace"}}
    copied = body(**routed, rollout={"strategy": "Shadow", "canary": {"share": "100%"}})
    assert InferenceDeployment.from_body(copied).rollout == Rollout(Strategy.SHADOW, Canary(share=1.0))
    with pytest.raises(InvalidSpec, match=r"^spec\.rollout\.canary\.share: must be at most 50%, or strategy Shadow"):
        InferenceDeployment.from_body(body(**routed, rollout={"strategy": "Canary", "canary": {"share": "51%"}}))


def test_who_may_ask_is_told_by_names_of_secrets() -> None:
    assert InferenceDeployment.from_body(body()).auth == Auth()
    said = {
        "apiKeys": {"secretName": "keys"},
        "tls": {"secretName": "tls"},
        "clientCA": {"secretName": "ca", "key": "x"},
    }
    assert InferenceDeployment.from_body(body(auth=said)).auth == Auth(
        SecretFile("keys", "keys"), "tls", SecretFile("ca", "x")
    )


def test_tenants_are_told_by_a_config_map_and_a_gateways_header() -> None:
    assert InferenceDeployment.from_body(body()).tenants == Tenants()
    said = {"configMapName": "shares", "key": "x.json", "trustHeader": True}
    assert InferenceDeployment.from_body(body(tenants=said)).tenants == Tenants("shares", "x.json", True)


def test_a_report_of_the_gate_is_told_by_a_config_map() -> None:
    assert InferenceDeployment.from_body(body()).model.gate_report is None
    said = InferenceDeployment.from_body(body(model={"gateReport": {"configMapName": "llama-gate", "key": "x.json"}}))
    assert said.model.gate_report == GateReport("llama-gate", "x.json")
    with pytest.raises(InvalidSpec, match=r"spec\.model\.gateReport\.configMapName"):
        InferenceDeployment.from_body(body(model={"gateReport": {"key": "x.json"}}))


def test_pod_fields_that_say_everything() -> None:
    given = {
        "nodeSelector": {"zone": "a", "disk": "ssd"},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "team", "value": "a", "effect": "NoExecute", "tolerationSeconds": 0},
        ],
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "topologySpread": [{"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        "imagePullSecrets": ["registry"],
        "imagePullPolicy": "Never",
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "labels": {"team": "a"},
        "annotations": {"example.com/owner": "a"},
    }
    assert InferenceDeployment.from_body(body(pod=given)).pod == PodFields(
        node_selector=(("disk", "ssd"), ("zone", "a")),  # sorted: another order is no other revision
        tolerations=(Toleration("Exists"), Toleration("Equal", "team", "a", "NoExecute", 0)),
        priority_class="serving",
        runtime_class="nvidia",
        topology_spread=(Spread("zone", 2, "DoNotSchedule"),),
        pull_secrets=("registry",),
        pull_policy="Never",
        env=(("NCCL_DEBUG", "INFO"),),
        labels=(("team", "a"),),
        annotations=(("example.com/owner", "a"),),
    )


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ({"source": "pvc://models/llama/"}, ClaimSource("models", "llama")),
        ({"source": "hf://meta/llama", "cacheClaim": "hub"}, HubSource("meta/llama", None, "hub")),
        ({"source": "hf://meta/llama@refs/pr/1", "cacheClaim": "hub"}, HubSource("meta/llama", "refs/pr/1", "hub")),
        ({"source": "oci://registry.example:5000/a/b:v1"}, ImageSource("registry.example:5000/a/b:v1", "")),
        ({"source": f"oci://registry.example/b@{DIGEST}//m/8b"}, ImageSource(f"registry.example/b@{DIGEST}", "m/8b")),
    ],
    ids=lambda value: value["source"] if isinstance(value, dict) else "",
)
def test_sources(model: dict[str, Any], source: Source) -> None:
    assert InferenceDeployment.from_body(body(model=model)).model.source == source


POET = {"name": "poet", "source": "pvc://models/poet"}


def test_adapters_have_sources_of_the_same_kinds() -> None:
    model = {"source": "hf://meta/llama", "cacheClaim": "hub", "adapters": [POET, {"name": "b", "source": "hf://x/b"}]}
    found = InferenceDeployment.from_body(body(model=model)).model
    assert found.adapters == (
        Adapter("poet", ClaimSource("models", "poet")),
        Adapter("b", HubSource("x/b", None, "hub")),
    )
    assert not found.batch_invariant


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"model": {"source": "oci://registry/a"}}, "spec.model.source", id="an image without tag"),
        pytest.param(
            {"model": {"source": "pvc://m/$(POD_IP)"}}, "spec.model.source", id="a path that would be expanded"
        ),
        pytest.param({"model": {"source": "hf://meta/llama"}}, "spec.model.cacheClaim", id="a hub without its cache"),
        pytest.param({"model": {"cacheClaim": "hub"}}, "spec.model.cacheClaim", id="a cache without its hub"),
        pytest.param({"model": {"batchInvariant": "yes"}}, "spec.model.batchInvariant", id="a word for a flag"),
        pytest.param(
            {"model": {"adapters": [{"name": "$(X)", "source": "pvc://m/a"}]}},
            "spec.model.adapters[0].name",
            id="an adapter's name that would be expanded",
        ),
        pytest.param(
            {"model": {"adapters": [{"name": "a", "source": "hf://team/a"}]}},
            "spec.model.adapters[0].source",
            id="an adapter of a hub without its cache",
        ),
        pytest.param(
            {"model": {"adapters": [{"name": "a", "source": "pvc://m/../a"}]}},
            "spec.model.adapters[0].source",
            id="an adapter that leaves the claim",
        ),
        pytest.param({"model": {"adapters": 2 * [POET]}}, "spec.model.adapters", id="a name taken twice"),
        pytest.param({"replicas": 0}, "spec.replicas", id="none at all"),
        pytest.param({"autoscaling": {"warmStandby": -1}}, "spec.autoscaling.warmStandby", id="fewer than no standby"),
        pytest.param({"autoscaling": {"metricsHold": "soon"}}, "spec.autoscaling.metricsHold", id="no time"),
        pytest.param({"autoscaling": {"schedules": {}}}, "spec.autoscaling.schedules", id="no list"),
        pytest.param({"autoscaling": {"schedules": ["x"]}}, "spec.autoscaling.schedules[0]", id="no object"),
        pytest.param(scheduled(start="0 8 * *"), "spec.autoscaling.schedules[0].start", id="cron with four fields"),
        pytest.param(scheduled(end="0 25 * * *"), "spec.autoscaling.schedules[0].end", id="an hour too late"),
        pytest.param(scheduled(start="0 0 31 2 *"), "spec.autoscaling.schedules[0].start", id="a day that never comes"),
        pytest.param(scheduled(start="0 0 */31 2 8"), "spec.autoscaling.schedules[0].start", id="a day of no week"),
        pytest.param(scheduled(start=None), "spec.autoscaling.schedules[0].start", id="a schedule without start"),
        pytest.param(scheduled(timeZone="Mars/Olympus"), "spec.autoscaling.schedules[0].timeZone", id="another planet"),
        pytest.param(scheduled(timeZone="Europe"), "spec.autoscaling.schedules[0].timeZone", id="a folder of zones"),
        pytest.param(scheduled(timeZone="../UTC"), "spec.autoscaling.schedules[0].timeZone", id="a zone that climbs"),
        pytest.param(scheduled(minReplicas=17), "spec.autoscaling.schedules[0].minReplicas", id="above the outer max"),
        pytest.param(scheduled(maxReplicas=3), "spec.autoscaling.schedules[0].minReplicas", id="min above its max"),
        pytest.param(
            scheduled(minReplicas=None, maxReplicas=1),
            "spec.autoscaling.schedules[0].minReplicas",
            id="below the outer min",
        ),
        pytest.param({"rollout": {"strategy": "Shadow"}}, "spec.rollout.strategy", id="nobody who copies requests"),
        pytest.param({"rollout": {"strategy": "Recreate"}}, "spec.rollout.strategy", id="an unknown strategy"),
        pytest.param(
            {"rollout": {"canary": {"minDuration": "1h", "deadline": "1h"}}},
            "spec.rollout.canary.deadline",
            id="no time left",
        ),
        pytest.param(
            {"rollout": {"canary": {"limits": {"queueWaitP95": "99%"}}}},
            "spec.rollout.canary.limits.queueWaitP95",
            id="better than the old one",
        ),
        pytest.param(
            {"rollout": {"canary": {"limits": {"qualityLoss": 0.05}}}},
            "spec.rollout.canary.limits.qualityLoss",
            id="a number without quotes",
        ),
        pytest.param(
            {"rollout": {"canary": {"golden": [{"prompt": "x"}]}}},
            "spec.rollout.canary.golden[0].answer",
            id="a prompt without its answer",
        ),
        pytest.param(
            {"pod": {"env": [{"name": "LD_PRELOAD", "value": "x"}]}}, "spec.pod.env[0].name", id="a foreign name"
        ),
        pytest.param(
            {"pod": {"env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}}, "spec.pod.env[0].name", id="devices"
        ),
        pytest.param(
            {"pod": {"env": [{"name": "OMP_NUM_THREADS", "value": 4}]}}, "spec.pod.env[0].value", id="a number"
        ),
        pytest.param(
            {"pod": {"labels": {"headrace.dev/routable": "true"}}}, "spec.pod.labels", id="the operator's label"
        ),
        pytest.param({"pod": {"nodeSelector": {"gpu": True}}}, "spec.pod.nodeSelector", id="true without quotes"),
        pytest.param({"pod": {"imagePullSecrets": [1]}}, "spec.pod.imagePullSecrets", id="a secret that is no name"),
        pytest.param({"pod": {"imagePullPolicy": "Often"}}, "spec.pod.imagePullPolicy", id="an unknown policy"),
        pytest.param({"model": {"source": "s3://bucket/x"}}, "spec.model.source", id="a source that is no claim"),
        pytest.param({"model": {"source": "pvc://c/../x"}}, "spec.model.source", id="a path that leaves the claim"),
        pytest.param({"model": {"dtype": "int3"}}, "spec.model.dtype", id="an unknown dtype"),
        pytest.param({"model": {"device": None}}, "spec.model.device", id="no device"),
        pytest.param({"resources": {"gpus": -1}}, "spec.resources.gpus", id="fewer than no GPUs"),
        pytest.param({"autoscaling": {"minReplicas": 17}}, "spec.autoscaling.minReplicas", id="min above max"),
        pytest.param({"autoscaling": {"minReplicas": 0}}, "spec.autoscaling.minReplicas", id="no replicas"),
        pytest.param({"autoscaling": {"maxReplicas": True}}, "spec.autoscaling.maxReplicas", id="not a number"),
        pytest.param({"routing": {"modelRouters": ["a/b", "chat"]}}, "spec.routing.modelRouters[1]", id="no namespace"),
        pytest.param({"routing": {"modelRouters": ["a/b", "a/b"]}}, "spec.routing.modelRouters", id="routers twice"),
        pytest.param(
            {
                "routing": {
                    "mode": "GatewayInferencePool",
                    "endpointPicker": {"serviceName": "x"},
                    "modelRouters": ["a/b"],
                }
            },
            "spec.routing.modelRouters",
            id="model routers and a pool",
        ),
        pytest.param(
            {
                "routing": {"modelRouters": ["a/b"]},
                "auth": {"tls": {"secretName": "a"}, "clientCA": {"secretName": "b"}},
            },
            "spec.auth.clientCA",
            id="client certificates through model routers",
        ),
        pytest.param(
            {"routing": {"modelRouters": ["a/b"]}, "rollout": {"strategy": "Shadow", "canary": {}}},
            "spec.rollout.strategy",
            id="model routers copy nothing",
        ),
        pytest.param({"autoscaling": {"mode": "Off"}}, "spec.autoscaling.mode", id="an unknown mode"),
        pytest.param({"autoscaling": {"scaleDownWindow": "-5m"}}, "spec.autoscaling.scaleDownWindow", id="negative"),
        pytest.param(
            {"autoscaling": {"targets": {"queueWaitP95": "0s", "utilization": "70%"}}},
            "spec.autoscaling.targets.queueWaitP95",
            id="a target that no queue can hold",
        ),
        pytest.param(
            {"autoscaling": {"targets": {"queueWaitP95": "1s", "utilization": "0%"}}},
            "spec.autoscaling.targets.utilization",
            id="no utilization at all",
        ),
        pytest.param({"tenants": {"trustHeader": "yes"}}, "spec.tenants.trustHeader", id="trust that is a word"),
        pytest.param({"caches": {"responseMiB": 0}}, "spec.caches.responseMiB", id="a cache of nothing"),
        pytest.param({"caches": {"ttl": "0s"}}, "spec.caches.ttl", id="a cache for no time"),
        pytest.param({"auth": {"apiKeys": {}}}, "spec.auth.apiKeys.secretName", id="keys from nowhere"),
        pytest.param({"auth": {"clientCA": {"secretName": "a"}}}, "spec.auth.clientCA", id="certificates without TLS"),
        pytest.param({"batching": {"maxRunning": "64"}}, "spec.batching.maxRunning", id="a number in quotes"),
        pytest.param({"batching": {**BATCHING, "window": "51ms"}}, "spec.batching.window", id="a window too long"),
        pytest.param(
            {"batching": {**BATCHING, "offlineReserve": "51%"}}, "spec.batching.offlineReserve", id="over half"
        ),
        pytest.param({"drain": {"timeout": "120"}}, "spec.drain.timeout", id="a duration without unit"),
    ],
)
def test_what_the_schema_should_have_refused_names_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        InferenceDeployment.from_body(body(**spec))
    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field}: must ")


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1m30s", 90), ("1.5h", 5400), ("0s", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text, "field") == pytest.approx(seconds)


@given(st.text(alphabet="0123456789.smh% -", max_size=8))
def test_a_duration_is_read_whole_or_refused(text: str) -> None:
    try:
        seconds = duration(text, "field")
    except InvalidSpec:
        return
    assert seconds >= 0
    assert text
    assert not set(text) & set("% -")


@pytest.mark.parametrize("text", ["70", "0%", "101%", "-5%", None])
def test_percentages_that_mean_nothing_are_refused(text: str | None) -> None:
    with pytest.raises(InvalidSpec, match="between 1% and 100%"):
        percent(text, "field")


@given(st.text(alphabet="0123456789*/,-# LMONjan", max_size=20))
def test_cron_is_understood_or_refused(text: str) -> None:
    """Never another error, whatever the library thinks of it: one bad schedule must not hide what is wrong."""
    try:
        assert Section({"start": text}, "spec").cron("start") == text
    except InvalidSpec as refusal:
        assert refusal.field == "spec.start"  # noqa: PT017 - an accepted expression is fine, too


@given(st.sampled_from(sorted(available_timezones())))
def test_every_time_zone_of_the_database_is_known(name: str) -> None:
    assert Section({"timeZone": name}, "spec").time_zone("timeZone", "UTC") == name
