"""What a manifest may say of its pods beside the model: a choice of a pod's own fields that cannot widen its rights."""

import re
from dataclasses import dataclass

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section

ENV = re.compile(r"(NCCL|CUDA|OMP|MKL|NUMBA|TORCH|PYTORCH|TRITON)_[A-Z0-9_]+|HF_HUB_OFFLINE")
RESERVED = re.compile(r"(.*\.)?(headrace\.dev|kubernetes\.io|k8s\.io)/.*")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Toleration:
    operator: str  # Equal | Exists
    key: str | None = None  # None = any, with Exists
    value: str | None = None
    effect: str | None = None  # None = all
    seconds: int | None = None  # on a node with a NoExecute taint; None = for ever


@dataclass(frozen=True, slots=True)
class Spread:
    topology_key: str  # a node label; nodes with the same value are one place
    max_skew: int
    when_unsatisfiable: str  # DoNotSchedule | ScheduleAnyway


@dataclass(frozen=True, slots=True)
class PodFields:
    node_selector: Pairs = ()
    tolerations: tuple[Toleration, ...] = ()
    priority_class: str | None = None
    runtime_class: str | None = None
    topology_spread: tuple[Spread, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    pull_policy: str | None = None  # None = as Kubernetes chooses
    env: Pairs = ()
    labels: Pairs = ()
    annotations: Pairs = ()


def pod_fields(pod: Section) -> PodFields:
    """Raises InvalidSpec."""
    return PodFields(
        node_selector=pod.pairs("nodeSelector"),
        tolerations=tuple(map(_toleration, pod.parts("tolerations"))),
        priority_class=pod.text_if_given("priorityClassName"),
        runtime_class=pod.text_if_given("runtimeClassName"),
        topology_spread=tuple(map(_spread, pod.parts("topologySpread"))),
        pull_secrets=pod.texts("imagePullSecrets"),
        pull_policy=_one_of_if_given(pod, "imagePullPolicy", ("Always", "IfNotPresent", "Never")),
        env=tuple(map(_env, pod.parts("env"))),
        labels=_own_names(pod, "labels"),
        annotations=_own_names(pod, "annotations"),
    )


def _toleration(given: Section) -> Toleration:
    return Toleration(
        operator=given.one_of("operator", ("Equal", "Exists"), "Equal"),
        key=given.text_if_given("key"),
        value=given.values.get("value"),
        effect=_one_of_if_given(given, "effect", ("NoSchedule", "PreferNoSchedule", "NoExecute")),
        seconds=given.whole_if_given("tolerationSeconds", least=0),
    )


def _spread(given: Section) -> Spread:
    return Spread(
        topology_key=given.text("topologyKey"),
        max_skew=given.whole("maxSkew", default=1),
        when_unsatisfiable=given.one_of("whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"), "ScheduleAnyway"),
    )


def _env(given: Section) -> tuple[str, str]:
    name, value = given.text("name"), given.values.get("value")
    if not ENV.fullmatch(name) or name == "CUDA_VISIBLE_DEVICES":
        allowed = "NCCL_*, CUDA_*, OMP_*, MKL_*, NUMBA_*, TORCH_*, PYTORCH_*, TRITON_* or HF_HUB_OFFLINE"
        why = f"must be {allowed}, not {name!r}; devices are chosen by resources.gpus"
        raise InvalidSpec(given.field("name"), why)
    if not isinstance(value, str):
        raise InvalidSpec(given.field("value"), f"must be text, not {value!r}; put numbers in quotes")
    return name, value


def _own_names(pod: Section, key: str) -> Pairs:
    pairs = pod.pairs(key)
    for name, _ in pairs:
        if RESERVED.fullmatch(name):
            why = f"must not have {name!r}: headrace.dev/, kubernetes.io/ and k8s.io/ belong to others"
            raise InvalidSpec(pod.field(key), why)
    return pairs


def _one_of_if_given(given: Section, key: str, allowed: tuple[str, ...]) -> str | None:
    return given.one_of(key, allowed) if given.has(key) else None
