from typing import Any

import pytest
from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import duration, percent
from headrace_operator.service import InferenceDeployment, Mode, Model, Resources
from headrace_operator.sources import ClaimSource
from hypothesis import given
from hypothesis import strategies as st


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
        "batching": {"maxRunning": 64, "maxTokensPerStep": 2048, "maxWaiting": 1024},
        "drain": {"timeout": "2m"},
    }
    merged = {name: {**value, **spec.get(name, {})} for name, value in defaults.items()}
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


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"model": {"source": "s3://bucket/x"}}, "spec.model.source", id="a source that is no claim"),
        pytest.param({"model": {"source": "pvc://c/../x"}}, "spec.model.source", id="a path that leaves the claim"),
        pytest.param({"model": {"dtype": "int3"}}, "spec.model.dtype", id="an unknown dtype"),
        pytest.param({"model": {"device": None}}, "spec.model.device", id="no device"),
        pytest.param({"resources": {"gpus": -1}}, "spec.resources.gpus", id="fewer than no GPUs"),
        pytest.param({"autoscaling": {"minReplicas": 17}}, "spec.autoscaling.minReplicas", id="min above max"),
        pytest.param({"autoscaling": {"minReplicas": 0}}, "spec.autoscaling.minReplicas", id="no replicas"),
        pytest.param({"autoscaling": {"maxReplicas": True}}, "spec.autoscaling.maxReplicas", id="not a number"),
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
        pytest.param({"batching": {"maxRunning": "64"}}, "spec.batching.maxRunning", id="a number in quotes"),
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
