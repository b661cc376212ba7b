"""Rates and shares of the last seconds, made of the counters when somebody scrapes: a step costs nothing for them.

Whoever has PromQL makes them of the counters, over any time; these are for people with curl, for /load and for the
price. What cannot be known is absent: a share of nothing, a peak that nobody told, the first scrape.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_server.metrics import Direction, ServerMetrics
from headrace_server.telemetry.values import value_of

LEAST, ENOUGH, MOST = 1.0, 10.0, 60.0  # seconds: between two snapshots, of a window, that a snapshot is kept


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the process began."""

    at: float  # seconds on the clock
    prompt: float
    generation: float
    finished: float
    step_tokens: float
    recomputed: float
    asked: float  # tokens looked up in the prefix cache
    hit: float
    busy: float  # seconds
    flops: float
    bytes: float

    def __sub__(self, before: "Totals") -> "Totals":
        return Totals(*(getattr(self, name) - getattr(before, name) for name in Totals.__slots__))


class Recent(Collector):
    def __init__(self, ours: ServerMetrics, clock: Callable[[], float], hour_price: float | None, on_gpu: bool) -> None:
        """`hour_price`: of this replica's device, in whatever money; None = not told."""
        self._ours = ours
        self._clock = clock
        self._price = hour_price
        self._on_gpu = on_gpu
        self._snapshots: deque[Totals] = deque()

    def collect(self) -> Iterable[Metric]:
        window = self._window()
        if window is None:
            return
        seconds = window.at
        yield _gauge("recent_seconds", "Seconds that the other recent series are about", seconds)
        rates = GaugeMetricFamily("headrace_tokens_per_second", "Tokens computed a second, recently", labels=["kind"])
        rates.add_metric([Direction.PROMPT], window.prompt / seconds)
        rates.add_metric([Direction.GENERATION], window.generation / seconds)
        yield rates
        yield _gauge(
            "device_idle_share",
            "Share of the time that the device did not compute",
            1 - min(1.0, window.busy / seconds),
        )
        yield from self._shares(window)
        yield from self._of_peak(window)
        yield from self._money(window)

    def _shares(self, window: Totals) -> Iterator[Metric]:
        if window.asked > 0:
            yield _gauge(
                "prefix_cache_hit_rate", "Share of the tokens looked up that were found", window.hit / window.asked
            )
        if window.step_tokens > 0:
            tax = window.recomputed / window.step_tokens
            yield _gauge("recompute_tax", "Share of the tokens computed that were computed before", tax)

    def _of_peak(self, window: Totals) -> Iterator[Metric]:
        flops, moved = value_of(self._ours.device_peak_flops), value_of(self._ours.device_peak_bytes)
        if flops:
            text = "Model FLOPs utilization: operations the steps had to do, of those the device can do"
            yield _gauge("mfu", text, window.flops / window.at / flops)
        if moved:
            text = "Memory bandwidth utilization: bytes the steps had to move, of those the device can move"
            yield _gauge("mbu", text, window.bytes / window.at / moved)

    def _money(self, window: Totals) -> Iterator[Metric]:
        if self._on_gpu:
            text = "Requests ended in an hour of the GPU, at the recent rate"
            yield _gauge("requests_per_gpu_hour", text, window.finished / window.at * 3600)
        tokens = window.prompt + window.generation
        if self._price is not None and tokens > 0:
            cost = self._price / 3600 * window.at / tokens * 1e6
            yield _gauge("cost_per_million_tokens", "Price of a million tokens, at the recent rate", cost)

    def _window(self) -> Totals | None:
        """What came since the latest snapshot that is old enough, or else the oldest; `at` is how long that was."""
        now = self._totals()
        kept = self._snapshots
        while len(kept) > 1 and now.at - kept[1].at > MOST:
            kept.popleft()
        old = [each for each in kept if now.at - each.at >= ENOUGH]
        base = old[-1] if old else kept[0] if kept else None
        if not kept or now.at - kept[-1].at >= LEAST:
            kept.append(now)
        return None if base is None or now.at - base.at < LEAST else now - base

    def _totals(self) -> Totals:
        ours = self._ours
        counters = (
            ours.prompt_tokens, ours.generation_tokens, ours.requests_finished, ours.step_tokens,
            ours.recomputed_tokens, ours.prefix_cache_queries, ours.prefix_cache_hits, ours.device_busy_seconds,
            ours.estimated_flops, ours.estimated_bytes,
        )  # fmt: skip
        return Totals(self._clock(), *(value_of(counter) or 0.0 for counter in counters))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"headrace_{name}", text, value=value)
