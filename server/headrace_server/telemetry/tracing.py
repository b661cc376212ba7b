"""OTLP traces: a server span for each request, with what it waited for as children.

Made from the moments that are known anyway, when the request is over: while it runs a trace costs nothing, and without
--otlp-endpoint nothing of OpenTelemetry is imported. The caller's W3C context is the parent, and its decision holds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from headrace_server.telemetry.answered import Answered, Operation
from headrace_server.telemetry.gen_ai import PROVIDER

# What went wrong at the caller's end leaves the span's status alone, as OpenTelemetry has it for servers.
CALLERS_OWN = {"cancelled", "InvalidRequest", "UnknownModel", "Overloaded", "Unauthenticated", "PermissionDenied"}
PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Stage:
    """A child span. Moments are seconds on the engine's clock."""

    name: str
    began: float
    ended: float
    attributes: dict[str, AttributeValue]


class Tracing:
    def __init__(
        self, endpoint: str, share: float, model: str, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        """`share` of the requests whose caller is part of no trace. `clock`: the engine's; `wall_clock`: since 1970."""
        self._model = model
        self._clock = clock
        self._wall_clock = wall_clock
        own = Resource({"service.name": "headrace-server"})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=own.merge(OTELResourceDetector().detect()),  # the pod's own words, from OTEL_RESOURCE_ATTRIBUTES
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("headrace_server")

    def hear(self, answered: Answered) -> None:
        to_wall = self._wall_clock() - self._clock()

        def at(moment: float) -> int:
            """Nanoseconds since 1970."""
            return int((moment + to_wall) * 1e9)

        parent = _parent(answered)
        span = self._tracer.start_span(
            f"{answered.operation} {self._model}", parent, SpanKind.SERVER, start_time=at(answered.arrived)
        )
        if span.is_recording():
            span.set_attributes(_attributes(answered, self._model))
            if answered.error is not None and answered.error not in CALLERS_OWN:
                span.set_status(Status(StatusCode.ERROR, answered.error))
            inside = set_span_in_context(span, parent)
            for stage in stages(answered):
                child = self._tracer.start_span(
                    stage.name, inside, attributes=stage.attributes, start_time=at(stage.began)
                )
                child.end(at(stage.ended))
        span.end(at(answered.ended))

    def close(self) -> None:
        """Sends what is left. Blocks, for a collector that does not answer some seconds."""
        self._provider.shutdown()


def stages(answered: Answered) -> Iterator[Stage]:
    """Those that it came to; the one that was cut off ends with the request."""
    began, first, last = answered.began, answered.first_token, answered.last_token
    if not answered.admitted:
        return
    yield Stage("queue", answered.arrived, _or(began, answered.ended), {})
    if began is None:
        return
    tokens: dict[str, AttributeValue] = {"gen_ai.usage.input_tokens": answered.prompt_tokens or 0}
    if answered.operation in {Operation.EMBEDDINGS, Operation.RERANK}:
        yield Stage("embed", began, answered.ended, tokens)
        return
    yield Stage("prefill", began, _or(first, answered.ended), dict(tokens))
    if first is None or last is None:
        return
    yield Stage("decode", first, last, {"gen_ai.usage.output_tokens": answered.generated_tokens})
    if (
        answered.detokenising is not None
    ):  # token by token beside the decoding, so the span says how much of it was work
        yield Stage("detokenise", first, answered.ended, {"headrace.busy_seconds": answered.detokenising})


def _or(moment: float | None, otherwise: float) -> float:
    return otherwise if moment is None else moment


def _parent(answered: Answered) -> Context | None:
    """None: the beginning of a trace. What is no W3C context counts as none, as the specification has it."""
    came = answered.came_with
    if not came.traceparent:
        return Context()
    return PROPAGATOR.extract({"traceparent": came.traceparent, "tracestate": came.tracestate}, Context())


def _attributes(answered: Answered, model: str) -> dict[str, AttributeValue]:
    """OpenTelemetry's GenAI conventions; the latencies are named as vLLM names them."""
    found: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": answered.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.response.id": answered.request_id or None,
        "gen_ai.request.max_tokens": answered.max_new_tokens,
        "gen_ai.usage.input_tokens": answered.prompt_tokens,
        "gen_ai.usage.output_tokens": answered.generated_tokens,
        "gen_ai.response.finish_reasons": None if answered.finish is None else (str(answered.finish),),
        "error.type": answered.error,
        "gen_ai.latency.time_in_queue": _since(answered.arrived, answered.began),
        "gen_ai.latency.time_to_first_token": _since(answered.arrived, answered.first_token),
        "gen_ai.latency.e2e": answered.ended - answered.arrived,
        "headrace.attempts_before": answered.came_with.attempts_before or None,
    }
    if answered.sampling is not None:
        found |= {
            "gen_ai.request.temperature": answered.sampling.temperature,
            "gen_ai.request.top_p": answered.sampling.top_p,
            "gen_ai.request.top_k": answered.sampling.top_k or None,
            "gen_ai.request.seed": answered.sampling.seed,
        }
    return {name: value for name, value in found.items() if value is not None}


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else moment - start
