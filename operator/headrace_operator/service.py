"""The custom resource as values: what a user asked for, parsed once. Defaults stand in the CRD's schema, not here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace_operator.auth_fields import Auth, auth
from headrace_operator.cache_fields import Caches, caches
from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section
from headrace_operator.gate_fields import GateReport, gate_report
from headrace_operator.pod_fields import PodFields, pod_fields
from headrace_operator.routing_fields import Routing, routing
from headrace_operator.sources import Adapter, Source, adapters, source
from headrace_operator.speculative_fields import Speculative, speculative
from headrace_operator.tenant_fields import Tenants, tenants


class Mode(StrEnum):
    AUTO = "Auto"
    SHADOW = "Shadow"  # decides and says so; creates, routes and deletes no pod
    PAUSED = "Paused"  # replicas stay as they are; lost pods are still replaced
    EXTERNAL = "External"  # an HPA, KEDA or a person sets spec.replicas through the scale subresource


class Forecast(StrEnum):
    """May replicas be ordered for what the trend of the last minutes says?"""

    DISABLED = "Disabled"  # "Off" would be a boolean in a manifest
    TREND = "Trend"


class Strategy(StrEnum):
    ROLLING = "Rolling"
    CANARY = "Canary"  # the new revision beside the old one, promoted or rolled back on what was measured
    SHADOW = "Shadow"  # likewise judged, on copies of the requests: what the new revision answers reaches nobody


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
    """When a new revision may take over, also with strategy Shadow. Ratios are against the old revision's pods over the
    same time.
    """

    replicas: int = 1
    min_samples: int = 50  # finished requests of the new revision, before anything but its failure is believed
    min_duration: float = 60.0  # seconds with all canary pods ready
    deadline: float = 3600.0  # seconds; too few samples by then means back
    max_queue_wait: float = 1.5  # times the old p95, and never refused below the target itself
    max_error_rate: float = 0.01  # share of requests above the old revision's
    min_tokens_per_second: float = 0.8  # times the old speed of a running request
    golden: tuple[GoldenPrompt, ...] = ()
    max_quality_loss: float = 0.05  # nats a token that the golden answers may become less likely
    share: float | None = None  # of the requests (Shadow: copied), 0..1; None = as much as its pods would take


@dataclass(frozen=True, slots=True)
class Rollout:
    strategy: Strategy = Strategy.ROLLING
    canary: Canary = Canary()
    progress_deadline: float = 600.0  # seconds in which one pod more must become ready


class Task(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"


@dataclass(frozen=True, slots=True)
class Model:
    source: Source
    dtype: str
    device: str
    task: Task = Task.GENERATE
    quantization: str = "none"  # of the weights; or int8, int4
    kv_cache_dtype: str = "auto"  # as dtype; or int8
    speculative: Speculative | None = None  # None: no token is guessed ahead
    batch_invariant: bool = False
    adapters: tuple[Adapter, ...] = ()
    gate_report: GateReport | None = None  # that a pod needs to load the model; None: it needs none


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
    forecast: Forecast = Forecast.DISABLED
    idle_timeout: float = 600.0  # seconds without a request after which the last replica goes, with min_replicas 0


LONGEST_WINDOW = 0.05  # seconds; who waits longer notices


@dataclass(frozen=True, slots=True)
class Batching:
    max_running: int
    max_tokens_per_step: int
    max_waiting: int
    window: float | None = None  # seconds; None = the server's own default, as of `offline_reserve`
    offline_reserve: float | None = None  # a ratio


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
    pod: PodFields = field(default_factory=PodFields)
    auth: Auth = field(default_factory=Auth)
    tenants: Tenants = field(default_factory=Tenants)
    caches: Caches = field(default_factory=Caches)
    routing: Routing = field(default_factory=Routing)

    def __hash__(self) -> int:
        """Cheap, for caches: one made of every field takes longer than what they save."""
        return hash((self.uid, self.generation))

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "InferenceDeployment":
        """Raises InvalidSpec, which names the field. The API server has validated before; this is the second door."""
        metadata, spec = body["metadata"], Section(body.get("spec", {}), "spec")
        model = _model(spec.part("model"))
        way, guard = routing(spec.part("routing")), auth(spec.part("auth"))
        if way.holds and guard.client_ca is not None:
            why = (
                "must be left out with spec.routing.mode Headrace and with spec.routing.modelRouters: "
                "a router shows replicas no client's certificate"
            )
            raise InvalidSpec("spec.auth.clientCA", why)
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            model=model,
            resources=_resources(spec.part("resources")),
            scaling=_scaling(spec.part("autoscaling"), spec.whole_if_given("replicas"), way),
            batching=_batching(spec.part("batching")),
            drain_timeout=spec.part("drain").duration("timeout"),
            image=spec.text_if_given("image"),
            rollout=_rollout(spec.part("rollout"), model.task, way),
            pod=pod_fields(spec.part("pod")),
            auth=guard,
            tenants=tenants(spec.part("tenants")),
            caches=caches(spec.part("caches")),
            routing=way,
        )


def _model(model: Section) -> Model:
    files = source(model)
    return Model(
        source=files,
        dtype=model.one_of("dtype", ("float32", "bfloat16", "float16")),
        device=model.one_of("device", ("cuda", "cpu")),
        task=Task(model.one_of("task", Task, Task.GENERATE)),
        quantization=model.one_of("quantization", ("none", "int8", "int4"), "none"),
        kv_cache_dtype=model.one_of("kvCacheDtype", ("auto", "int8"), "auto"),
        batch_invariant=model.flag("batchInvariant"),
        adapters=adapters(model),
        speculative=speculative(model.part("speculative"), files) if model.has("speculative") else None,
        gate_report=gate_report(model.part("gateReport")) if model.has("gateReport") else None,
    )


def _resources(resources: Section) -> Resources:
    gpus = resources.whole("gpus", least=0)
    return Resources(gpus, resources.text_if_given("cpu"), resources.text_if_given("memory"))


def _batching(batching: Section) -> Batching:
    return Batching(
        max_running=batching.whole("maxRunning"),
        max_tokens_per_step=batching.whole("maxTokensPerStep"),
        max_waiting=batching.whole("maxWaiting"),
        window=_window(batching) if batching.has("window") else None,
        offline_reserve=batching.percent("offlineReserve", least=0, most=50)
        if batching.has("offlineReserve")
        else None,
    )


def _window(batching: Section) -> float:
    seconds = batching.duration("window")
    if seconds > LONGEST_WINDOW:
        raise InvalidSpec(batching.field("window"), f"must be between 0ms and 50ms, not {batching.values['window']!r}")
    return seconds


def _scaling(given: Section, replicas: int | None, way: Routing) -> Scaling:
    targets = given.part("targets")
    scaling = Scaling(
        min_replicas=given.whole("minReplicas", least=0),
        max_replicas=given.whole("maxReplicas"),
        queue_wait_target=targets.positive_duration("queueWaitP95"),
        utilization=targets.percent("utilization"),
        scale_down_window=given.duration("scaleDownWindow"),
        mode=Mode(given.one_of("mode", Mode)),
        warm_standby=given.whole("warmStandby", least=0, default=0),
        schedules=tuple(map(_schedule, given.parts("schedules"))),
        unschedulable_after=given.duration("unschedulableAfter", default=60.0),
        metrics_hold=given.duration("metricsHold", default=120.0),
        metrics_fallback=given.whole_if_given("metricsFallback"),
        replicas=replicas,
        forecast=Forecast(given.one_of("forecast", Forecast, default=Forecast.DISABLED)),
        idle_timeout=given.positive_duration("idleTimeout") if given.has("idleTimeout") else 600.0,
    )
    _check_bounds(given, scaling)
    if not way.holds:
        _check_minimum(given, scaling)
    return scaling


def _schedule(given: Section) -> Schedule:
    return Schedule(
        name=given.text("name"),
        start=given.cron("start"),
        end=given.cron("end"),
        time_zone=given.time_zone("timeZone", default="UTC"),
        min_replicas=given.whole_if_given("minReplicas", least=0),
        max_replicas=given.whole_if_given("maxReplicas"),
    )


def _check_bounds(given: Section, scaling: Scaling) -> None:
    """Outside every schedule and in each of them: where several overlap, the highest of both bounds fit, too."""
    _ordered(given, scaling.min_replicas, scaling.max_replicas)
    for schedule, section in zip(scaling.schedules, given.parts("schedules"), strict=True):
        _ordered(
            section,
            scaling.min_replicas if schedule.min_replicas is None else schedule.min_replicas,
            scaling.max_replicas if schedule.max_replicas is None else schedule.max_replicas,
        )


def _check_minimum(given: Section, scaling: Scaling) -> None:
    """Without a router, requests would be refused while there is no replica, and nobody would know of them."""
    sections = [given, *given.parts("schedules")]
    bounds = [scaling.min_replicas, *(schedule.min_replicas for schedule in scaling.schedules)]
    for section, least in zip(sections, bounds, strict=True):
        if least == 0:
            why = (
                "must be at least 1, or spec.routing.mode Headrace, or spec.routing.modelRouters must name some: "
                "routers hold requests until a replica is ready"
            )
            raise InvalidSpec(section.field("minReplicas"), why)


def _ordered(given: Section, least: int, most: int) -> None:
    if least > most:
        raise InvalidSpec(given.field("minReplicas"), f"must not exceed maxReplicas ({least} > {most})")


def _rollout(given: Section, task: Task, way: Routing) -> Rollout:
    strategy = Strategy(given.one_of("strategy", Strategy, Strategy.ROLLING))
    if strategy is Strategy.SHADOW and not way.spreads:
        why = "must be Canary or Rolling, or come with spec.routing.mode Headrace, whose routers copy requests for it"
        raise InvalidSpec(given.field("strategy"), why)
    deadline = given.positive_duration("progressDeadline") if given.has("progressDeadline") else None
    canary = _canary(given.part("canary"))
    if canary.share is not None and canary.share > MOST_SERVED and strategy is not Strategy.SHADOW:
        why = "must be at most 50%, or strategy Shadow, which copies requests: the old revision has to be measured, too"
        raise InvalidSpec(given.part("canary").field("share"), why)
    if canary.share is not None and not way.spreads:
        why = "must come with spec.routing.mode Headrace: a Service spreads connections evenly, and knows no shares"
        raise InvalidSpec(given.part("canary").field("share"), why)
    if canary.golden and task is not Task.GENERATE:
        why = "compares how likely answers are, and only a model with task generate gives any; leave it out"
        raise InvalidSpec(given.part("canary").field("golden"), why)
    return Rollout(strategy, canary, deadline or Rollout().progress_deadline)


MOST_SERVED = 0.5  # of the requests, by a revision on trial


def _canary(given: Section) -> Canary:
    limits, usual = given.part("limits"), Canary()
    canary = Canary(
        replicas=given.whole("replicas", default=usual.replicas),
        min_samples=given.whole("minSamples", default=usual.min_samples),
        min_duration=given.duration("minDuration", default=usual.min_duration),
        deadline=given.duration("deadline", default=usual.deadline),
        max_queue_wait=limits.percent("queueWaitP95", least=100, most=1000, default=usual.max_queue_wait),
        max_error_rate=limits.percent("errorRate", least=0, default=usual.max_error_rate),
        min_tokens_per_second=limits.percent("tokensPerSecond", default=usual.min_tokens_per_second),
        share=given.percent("share") if given.has("share") else None,
        golden=tuple(GoldenPrompt(item.text("prompt"), item.text("answer")) for item in given.parts("golden")),
        max_quality_loss=limits.number("qualityLoss", default=usual.max_quality_loss),
    )
    if canary.deadline <= canary.min_duration:
        raise InvalidSpec(given.field("deadline"), "must be longer than minDuration, or no canary could ever pass")
    return canary
