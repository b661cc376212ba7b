"""What a manifest says of the way that requests take to the replicas: a Service, Headrace's router, or a gateway."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section

LONGEST_HOLD = 3600.0  # seconds
MOST_HELD = 1_000_000  # requests
MOST_ROUTERS = 20
MODEL_ROUTERS = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9]([-a-z0-9]{0,47}[a-z0-9])?)")


class RoutingMode(StrEnum):
    SERVICE = "Service"  # the Service alone: it spreads connections
    HEADRACE = "Headrace"  # the operator runs routers: they spread requests, and hold them while no replica is ready
    GATEWAY = "GatewayInferencePool"  # an InferencePool, for a gateway of the Gateway API and its endpoint picker


@dataclass(frozen=True, slots=True)
class Hold:
    """What each router keeps while no replica is ready."""

    requests: int = 1000
    timeout: float = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class EndpointPicker:
    """The Service that the gateway asks which replica a request goes to."""

    name: str
    port: int = 9002
    failure_mode: str = "FailClose"  # or FailOpen: any replica while the picker is silent


@dataclass(frozen=True, slots=True)
class ModelRouters:
    """Routers before several models, which the chart runs as `modelRouters`: the deployment is one of their models."""

    namespace: str
    name: str  # in the chart's values

    @property
    def label(self) -> str:
        """What their pods have as the name of whom they are for."""
        return f"{self.name}-models"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Routing:
    mode: RoutingMode = RoutingMode.SERVICE
    replicas: int = 2  # routers
    hold: Hold = field(default_factory=Hold)
    endpoint_picker: EndpointPicker | None = None  # of mode GatewayInferencePool
    model_routers: tuple[ModelRouters, ...] = ()  # that the chart runs, and that hold requests for it, too

    @property
    def holds(self) -> bool:
        """May there be no replica at all? Only where somebody keeps the requests meanwhile."""
        return self.spreads or bool(self.model_routers)

    @property
    def spreads(self) -> bool:
        """Are there routers of its own, which know shares and copies?"""
        return self.mode is RoutingMode.HEADRACE


def routing(given: Section) -> Routing:
    """Raises InvalidSpec."""
    mode = RoutingMode(given.one_of("mode", RoutingMode, RoutingMode.SERVICE))
    if (mode is RoutingMode.GATEWAY) != given.has("endpointPicker"):
        why = f"must be given with mode {RoutingMode.GATEWAY}, which cannot work without, and with no other"
        raise InvalidSpec(given.field("endpointPicker"), why)
    shared = _model_routers(given)
    if shared and mode is RoutingMode.GATEWAY:
        why = f"must be left out with mode {RoutingMode.GATEWAY}, whose requests take another way"
        raise InvalidSpec(given.field("modelRouters"), why)
    replicas = given.whole("replicas", default=2)
    if replicas > MOST_ROUTERS:
        raise InvalidSpec(given.field("replicas"), f"must be at most {MOST_ROUTERS}, not {replicas}")
    picker = _picker(given) if mode is RoutingMode.GATEWAY else None
    return Routing(mode, replicas, _hold(given.part("hold")), picker, shared)


def _model_routers(given: Section) -> tuple[ModelRouters, ...]:
    named = given.texts("modelRouters")
    found = [MODEL_ROUTERS.fullmatch(text) for text in named]
    for number, (text, match) in enumerate(zip(named, found, strict=True)):
        if match is None:
            why = f"must be NAMESPACE/NAME of the chart's modelRouters such as default/chat, not {text!r}"
            raise InvalidSpec(f"{given.field('modelRouters')}[{number}]", why)
    if len(set(named)) < len(named):
        raise InvalidSpec(given.field("modelRouters"), "must name each of them once")
    return tuple(ModelRouters(match[1], match[3]) for match in found if match)


def _hold(given: Section) -> Hold:
    usual = Hold()
    requests = given.whole("requests", least=0, default=usual.requests)
    timeout = given.duration("timeout", default=usual.timeout)
    if requests > MOST_HELD:
        raise InvalidSpec(given.field("requests"), f"must be at most {MOST_HELD}, not {requests}")
    if timeout > LONGEST_HOLD:
        raise InvalidSpec(given.field("timeout"), f"must be at most 1h, not {given.values['timeout']!r}")
    return Hold(requests, timeout)


def _picker(given: Section) -> EndpointPicker:
    part, usual = given.part("endpointPicker"), EndpointPicker("")
    return EndpointPicker(
        part.text("serviceName"),
        part.whole("port", default=usual.port),
        part.one_of("failureMode", ("FailClose", "FailOpen"), usual.failure_mode),
    )
