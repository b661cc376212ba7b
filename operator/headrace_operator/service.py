"""The custom resource as values: what a user asked for, parsed once. Defaults stand in the CRD's schema, not here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from headrace_operator.errors import InvalidSpec

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
PERCENT = re.compile(r"(\d{1,3})%")
SOURCE = re.compile(r"pvc://([a-z0-9][a-z0-9.-]*)/(.+)")


class Mode(StrEnum):
    AUTO = "Auto"
    SHADOW = "Shadow"  # decides and says so; creates, routes and deletes no pod
    PAUSED = "Paused"  # replicas stay as they are; lost pods are still replaced
    EXTERNAL = "External"  # an HPA, KEDA or a person sets spec.replicas through the scale subresource


class Strategy(StrEnum):
    ROLLING = "Rolling"
    CANARY = "Canary"  # the new revision beside the old one, promoted or rolled back on what was measured
    SHADOW = "Shadow"  # mirrored traffic; needs the router


@dataclass(frozen=True, slots=True)
class Schedule:
    """Other bounds from each `start` until the next `end`."""

    name: str
    start: str  # cron, five fields
    end: str  # cron, five fields
    time_zone: str  # IANA name
    min_replicas: int | None = None  # None = as outside the schedule
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A question whose good answer is known: how likely a revision thinks it is tells its quality."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Canary:
    """When a new revision may take over. Ratios are against the old revision's pods over the same time."""

    replicas: int = 1
    min_samples: int = 50  # finished requests of the new revision, before anything but its failure is believed
    min_duration: float = 60.0  # seconds with all canary pods ready
    deadline: float = 3600.0  # seconds; too few samples by then means back
    max_queue_wait: float = 1.5  # times the old p95, and never refused below the target itself
    max_error_rate: float = 0.01  # share of requests above the old revision's
    min_tokens_per_second: float = 0.8  # times the old speed of a running request
    golden: tuple[GoldenPrompt, ...] = ()
    max_quality_loss: float = 0.05  # nats a token that the golden answers may become less likely


@dataclass(frozen=True, slots=True)
class Rollout:
    strategy: Strategy = Strategy.ROLLING
    canary: Canary = Canary()


@dataclass(frozen=True, slots=True)
class Model:
    claim: str  # PersistentVolumeClaim that holds it
    path: str  # inside the claim
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Scaling:
    min_replicas: int
    max_replicas: int
    queue_wait_target: float  # seconds, p95
    utilization: float  # share of a replica's learned capacity that demand may take, 0..1
    scale_down_window: float  # seconds
    mode: Mode = Mode.AUTO
    warm_standby: int = 0  # pods that are loaded and not routed, beside the replicas
    schedules: tuple[Schedule, ...] = ()
    unschedulable_after: float = 60.0  # seconds without a place after which a pod is no supply
    metrics_hold: float = 120.0  # seconds without any metrics in which the number of replicas is held
    metrics_fallback: int | None = None  # replicas after that; None = go on holding
    replicas: int | None = None  # spec.replicas: what somebody set through the scale subresource


@dataclass(frozen=True, slots=True)
class Batching:
    max_running: int
    max_tokens_per_step: int
    max_waiting: int


@dataclass(frozen=True, slots=True)
class Resources:
    gpus: int
    cpu: str | None = None  # Kubernetes quantity
    memory: str | None = None  # Kubernetes quantity


@dataclass(frozen=True, slots=True)
class InferenceDeployment:
    """One object of kind InferenceDeployment, as far as the operator acts on it."""

    namespace: str
    name: str
    uid: str
    generation: int
    model: Model
    resources: Resources
    scaling: Scaling
    batching: Batching
    drain_timeout: float  # seconds
    image: str | None = None  # None = the operator's own setting
    rollout: Rollout = Rollout()

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "InferenceDeployment":
        """Raises InvalidSpec, which names the field. The API server has validated before; this is the second door."""
        metadata, spec = body["metadata"], body.get("spec", {})
        scaling, batching = spec.get("autoscaling", {}), spec.get("batching", {})
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            model=_model(spec.get("model", {})),
            resources=_resources(spec.get("resources", {})),
            scaling=_scaling(scaling),
            batching=Batching(
                max_running=_whole(batching, "maxRunning", "spec.batching"),
                max_tokens_per_step=_whole(batching, "maxTokensPerStep", "spec.batching"),
                max_waiting=_whole(batching, "maxWaiting", "spec.batching"),
            ),
            drain_timeout=duration(spec.get("drain", {}).get("timeout"), "spec.drain.timeout"),
            image=spec.get("image"),
        )


def _model(model: Mapping[str, Any]) -> Model:
    match = SOURCE.fullmatch(str(model.get("source", "")))
    if not match or ".." in match[2].split("/"):
        raise InvalidSpec("spec.model.source", f"must be pvc://CLAIM/PATH, not {model.get('source')!r}")
    return Model(
        claim=match[1],
        path=match[2].strip("/"),
        dtype=_one_of(("float32", "bfloat16", "float16"), model.get("dtype"), "spec.model.dtype"),
        device=_one_of(("cuda", "cpu"), model.get("device"), "spec.model.device"),
    )


def _resources(resources: Mapping[str, Any]) -> Resources:
    gpus = _whole(resources, "gpus", "spec.resources", least=0)
    return Resources(gpus, resources.get("cpu"), resources.get("memory"))


def _scaling(scaling: Mapping[str, Any]) -> Scaling:
    least, most = (_whole(scaling, key, "spec.autoscaling") for key in ("minReplicas", "maxReplicas"))
    if least > most:
        raise InvalidSpec("spec.autoscaling.minReplicas", f"must not exceed maxReplicas ({least} > {most})")
    targets = scaling.get("targets", {})
    return Scaling(
        min_replicas=least,
        max_replicas=most,
        queue_wait_target=_positive(targets.get("queueWaitP95"), "spec.autoscaling.targets.queueWaitP95"),
        utilization=percent(targets.get("utilization"), "spec.autoscaling.targets.utilization"),
        scale_down_window=duration(scaling.get("scaleDownWindow"), "spec.autoscaling.scaleDownWindow"),
        mode=Mode(_one_of(tuple(Mode), scaling.get("mode"), "spec.autoscaling.mode")),
    )


def _whole(values: Mapping[str, Any], key: str, where: str, *, least: int = 1) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidSpec(f"{where}.{key}", f"must be a whole number of at least {least}, not {value!r}")
    return value


def _one_of(allowed: tuple[str, ...], value: object, field: str) -> str:
    if value not in allowed:
        raise InvalidSpec(field, f"must be one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def _positive(text: object, field: str) -> float:
    seconds = duration(text, field)
    if seconds <= 0:
        raise InvalidSpec(field, f"must be longer than 0s, not {text!r}")
    return seconds


def duration(text: object, field: str) -> float:
    """Seconds of `500ms`, `10s`, `1m30s`. Raises InvalidSpec."""
    parts = DURATION.findall(str(text))
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidSpec(field, f"must be a duration like 500ms, 10s or 5m, not {text!r}")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def percent(text: object, field: str) -> float:
    """0.7 of `70%`. Raises InvalidSpec."""
    match = PERCENT.fullmatch(str(text))
    if not match or not 0 < int(match[1]) <= 100:
        raise InvalidSpec(field, f"must be a percentage between 1% and 100%, not {text!r}")
    return int(match[1]) / 100
