"""Who is told of each request when it is over: the GenAI metrics always, the collector of traces if there is one."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace_server.config import ServerConfig
from headrace_server.metrics import ServerMetrics
from headrace_server.telemetry.answered import Hear
from headrace_server.telemetry.gen_ai import GenAiMetrics


@dataclass(frozen=True, slots=True)
class Told:
    hears: tuple[Hear, ...]
    flush: Callable[[], None] | None  # sends the traces that are left, and blocks for it; None: no traces

    @property
    def traces(self) -> bool:
        return self.flush is not None

    async def close(self) -> None:
        if self.flush is not None:
            await asyncio.to_thread(self.flush)


NOBODY = Told((), None)


def told_of_answers(config: ServerConfig, metrics: ServerMetrics) -> Told:
    gen_ai = GenAiMetrics(metrics, config.name)
    told = config.telemetry
    if told.otlp_endpoint is None:
        return Told((gen_ai.hear,), None)
    from headrace_server.telemetry.tracing import Tracing  # noqa: PLC0415 - a tenth of a second for who needs it

    wall_clock = time.time  # noqa: TID251 - a span has a date
    tracing = Tracing(told.otlp_endpoint, told.trace_share, config.name, time.monotonic, wall_clock)
    return Told((gen_ai.hear, tracing.hear), tracing.close)
