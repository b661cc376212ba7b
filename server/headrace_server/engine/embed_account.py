"""An embedder's numbers, under the names that generation has, so that whoever scales on them need not know which.

A text is what a request is there: it waits, is computed and ends. A call may bring several.
"""

from collections.abc import Callable
from collections.abc import Sequence as Row
from functools import partial
from math import nan

from headrace_server.config import EngineConfig
from headrace_server.engine.embed_lanes import Feed, News
from headrace_server.engine.embed_plan import Planner
from headrace_server.engine.first_zeros import first_zeros
from headrace_server.engine.sequence import Sequence
from headrace_server.metrics import Breakage, ServerMetrics
from headrace_server.request import Finish, Phase, Priority, Request
from headrace_server.telemetry.lengths import length_bucket
from headrace_server.telemetry.work import ModelWork, Part


class EmbedAccount:
    """Gauges are read from the planner at scrape time."""

    def __init__(
        self,
        metrics: ServerMetrics,
        feed: Feed,
        config: EngineConfig,
        lanes: int,
        clock: Callable[[], float],
        *,
        work: ModelWork | None = None,
    ) -> None:
        """`work`: what a batch costs; None: nobody knows, and MFU and MBU are absent."""
        self._metrics = metrics
        self._work = work
        self._tenants = config.tenants
        planner = feed.planner
        metrics.requests_waiting.set_function(lambda: len(planner))
        metrics.requests_running.set_function(lambda: sum(feed.running.values()))
        metrics.oldest_waiting_seconds.set_function(lambda: planner.oldest_waiting(clock()))
        metrics.max_running.set(config.max_running * lanes)
        for priority in Priority:
            metrics.requests_waiting_by_class.labels(priority).set_function(partial(planner.waiting, priority))
            metrics.requests_running_by_class.labels(priority).set_function(partial(feed.running.__getitem__, priority))
            oldest = partial(_oldest, planner, clock, priority)
            metrics.oldest_waiting_seconds_by_class.labels(priority).set_function(oldest)
            metrics.waiting_tokens.labels(priority).set_function(partial(planner.waiting_tokens, priority))
            metrics.predicted_wait_seconds.labels(priority).set_function(partial(_predicted, feed, priority))
        first_zeros(metrics)

    def admitted(self, call: Request, texts: Row[Sequence]) -> None:
        for text in texts:
            self._metrics.requests_received.inc()
            self._metrics.requests_received_by_class.labels(text.request.priority).inc()
        self._came(call)

    def no_room(self, call: Request) -> None:
        """rpc counts all refusals, by reason; this those that more replicas would have taken in, by class."""
        self._metrics.requests_refused_by_class.labels(call.priority).inc()
        self._came(call)

    def _came(self, call: Request) -> None:
        """Once a call, as its refusal was counted once."""
        if call.asked_before:
            self._metrics.requests_retried_by_class.labels(call.priority).inc()

    def tokenised(self, seconds: float) -> None:
        self._metrics.fetch_seconds.inc(seconds)

    def computed(self, news: News) -> None:
        metrics = self._metrics
        metrics.batch_size.observe(len(news.batch.texts))
        metrics.tokens_per_step.observe(news.batch.tokens)
        metrics.prompt_tokens.inc(news.batch.tokens)
        metrics.padded_tokens.inc(news.computed.padded)
        metrics.step_seconds.observe(news.seconds)
        metrics.busy_seconds.inc(news.seconds)
        metrics.device_busy_seconds.inc(news.computed.busy)
        metrics.device_gap_seconds.inc(news.gap)
        metrics.fetch_seconds.inc(news.fetch)
        self._count_work(news)
        for text in news.batch.texts:
            request = text.request
            kind = (request.priority, self._tenants.class_of(request.tenant))
            metrics.queue_wait_seconds.labels(*kind).observe(text.queue_wait or 0.0)
            metrics.step_tokens.labels(request.priority).inc(len(request.prompt))

    def _count_work(self, news: News) -> None:
        if self._work is not None:
            parts = [Part(0, len(text.request.prompt)) for text in news.batch.texts]
            self._metrics.estimated_flops.inc(self._work.flops(parts, len(parts)))
            self._metrics.estimated_bytes.inc(self._work.memory(parts))

    def ended(self, text: Sequence, finish: Finish, now: float) -> None:
        """The work counted is the work done: what ended while it waited adds none."""
        metrics, tokens = self._metrics, len(text.request.prompt)
        if finish is Finish.EXPIRED:
            self.expired(Phase.QUEUE if text.queue_wait is None else Phase.RUNNING)
        metrics.requests_finished.labels(finish).inc()
        computed = 0 if text.queue_wait is None else tokens
        metrics.finished_request_tokens.inc(computed)
        metrics.requests_finished_by_class.labels(text.request.priority).inc()
        metrics.finished_request_tokens_by_class.labels(text.request.priority).inc(computed)
        metrics.request_duration_seconds.observe(now - text.request.arrived_at)
        metrics.request_prompt_tokens.observe(tokens)
        metrics.request_shapes.labels(length_bucket(tokens), length_bucket(0)).inc()
        if text.queue_wait is not None:
            metrics.inference_seconds.observe(now - text.request.arrived_at - text.queue_wait)

    def expired(self, phase: Phase) -> None:
        self._metrics.requests_expired.labels(phase).inc()

    def broke(self, fault: Exception) -> None:
        """A batch did; the process is about to end."""
        self._metrics.engine_failures.labels(Breakage.of(fault)).inc()


def _predicted(feed: Feed, priority: Priority) -> float:
    """Seconds."""
    wait = feed.backlog().wait(priority)
    return nan if wait is None else wait


def _oldest(planner: Planner, clock: Callable[[], float], priority: Priority) -> float:
    """Seconds."""
    return planner.oldest_waiting(clock(), (priority,))
