"""What the operator sees of a server, for pods without one: metrics of a steady load, and a drain that is over at once.

The text has every series of the real server's metrics, in its form; only the numbers that the operator reads are alive.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import parse_qs, urlsplit

from headrace_server.metrics import ServerMetrics
from headrace_server.request import Priority
from headrace_server.tenants import TenantClass
from prometheus_client import CollectorRegistry, generate_latest

WORK = 200.0  # tokens of a request
PERIOD = 60.0  # s of the load's waves


@dataclass(slots=True)
class Load:
    rate: float  # requests/s of a pod, in the mean
    slots: int
    began: float = field(default_factory=time.monotonic)

    def text(self, phase: float, names: frozenset[str] = frozenset()) -> str:
        """`phase` (radians) shifts the waves, so that deployments differ. `names`: series; none = all."""
        at = time.monotonic() - self.began
        wave = 0.3 * PERIOD / math.tau
        done = math.floor(self.rate * (at + wave * (math.sin(phase) - math.sin(math.tau * at / PERIOD + phase))))
        running = min(self.slots, round(self.rate * (1 - 0.3 * math.cos(math.tau * at / PERIOD + phase)) * 2))
        values = {
            "headrace_requests_running": running, "headrace_max_running": self.slots,
            "headrace_requests_received_total": done, "headrace_prompt_tokens_total": done * WORK / 2,
            "headrace_generation_tokens_total": done * WORK / 2, "headrace_finished_request_tokens_total": done * WORK,
        }  # fmt: skip
        return "".join(self._line(line, values, done) for line in template(names))

    @staticmethod
    def _line(line: str, values: dict[str, float], done: float) -> str:
        series = line.rpartition(" ")[0]
        if 'class="standard"' in series:
            if series.startswith("headrace_queue_wait_seconds_bucket"):
                return line if 'le="0.001"' in series else f"{series} {done}.0\n"
            name = series.partition("{")[0].replace("_by_class", "")
        else:
            name = series
        return f"{series} {values[name]}\n" if name in values else line


class FakeServer:
    """One pod's. `hangs`: is a scrape taken and never answered?"""

    def __init__(self, deployment: str, load: Load, *, hangs: Callable[[], bool]) -> None:
        self._phase = (hash(deployment) % 628) / 100
        self._load = load
        self._hangs = hangs

    def connection(self) -> asyncio.Protocol:
        return _Connection(self)

    def answer(self, request: str) -> tuple[str, str] | None:
        """Content type and body; None = no answer, ever."""
        if "/metrics" in request:
            if self._hangs():
                return None
            return "text/plain; version=0.0.4", self._load.text(self._phase, _names(request))
        return "application/json", '{"in_flight": 0}'


class _Connection(asyncio.Protocol):
    """Just enough HTTP/1.1 for requests that fit into one packet: thousands a second cost little."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        line = data.split(b"\r\n", 1)[0].decode()
        if not (answer := self._server.answer(line)):
            return
        kind, text = answer
        body = text.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


@cache
def _names(request: str) -> frozenset[str]:
    """Series that a scrape asks for."""
    return frozenset(parse_qs(urlsplit(request.split(" ")[1]).query).get("name[]", ()))


@cache
def template(names: frozenset[str]) -> list[str]:
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    for outcome in ("length", "stop", "cancelled"):
        metrics.requests_finished.labels(outcome)
    for priority in Priority:
        metrics.queue_wait_seconds.labels(priority, TenantClass.DEFAULT)
        for by_class in (
            metrics.requests_waiting_by_class, metrics.requests_running_by_class,
            metrics.oldest_waiting_seconds_by_class, metrics.requests_received_by_class,
            metrics.requests_refused_by_class, metrics.requests_retried_by_class, metrics.requests_finished_by_class,
            metrics.finished_request_tokens_by_class,
        ):  # fmt: skip
            by_class.labels(priority)
    metrics.model_info.labels("m", "cuda", "bfloat16").set(1)
    metrics.ready.set(1)
    told = registry.restricted_registry(names) if names else registry
    text = re.sub(r"^headrace_\w+_created.*\n", "", generate_latest(told).decode(), flags=re.MULTILINE)
    return text.splitlines(keepends=True)
