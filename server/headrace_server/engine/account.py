"""The engine's numbers, written where they become true. rpc counts refusals; this counts everything admitted."""

from collections.abc import Callable

from headrace_server.config import EngineConfig
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish


class Account:
    """Gauges are read from the scheduler at scrape time, so they hold during a long step and on an idle engine."""

    def __init__(
        self, metrics: ServerMetrics, scheduler: Scheduler, config: EngineConfig, clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        metrics.requests_waiting.set_function(lambda: scheduler.waiting)
        metrics.requests_running.set_function(lambda: scheduler.running)
        metrics.oldest_waiting_seconds.set_function(lambda: scheduler.oldest_waiting(clock()))
        metrics.kv_pages_free.set_function(lambda: scheduler.pages.free)
        metrics.kv_pages_total.set(scheduler.pages.total)
        metrics.max_running.set(config.max_running)
        for outcome in Finish:  # a rate needs the zero before the first one
            metrics.requests_finished.labels(outcome)

    def admitted(self) -> None:
        self._metrics.requests_received.inc()

    def planned(self, step: Step) -> None:
        self._metrics.batch_size.observe(len(step.chunks))
        for start in step.starts:
            self._metrics.queue_wait_seconds.observe(start.queue_wait)

    def computed(self, step: Step, seconds: float) -> None:
        """`seconds` from handing the step over to having its tokens: what the next step had to wait for."""
        self._metrics.step_seconds.observe(seconds)
        self._metrics.busy_seconds.inc(seconds)
        self._metrics.prompt_tokens.inc(step.prompt_tokens)

    def token(self, sequence: Sequence, now: float, previous: float | None) -> None:
        """`previous`: when this request's last token came; None for its first."""
        self._metrics.generation_tokens.inc()
        if previous is None:
            self._metrics.time_to_first_token_seconds.observe(now - sequence.request.arrived_at)
        else:
            self._metrics.inter_token_latency_seconds.observe(now - previous)

    def ended(self, sequence: Sequence, now: float) -> None:
        """The work counted is the work done: an answer cut off early adds only what was computed for it."""
        assert sequence.finish is not None
        self._metrics.requests_finished.labels(sequence.finish).inc()
        self._metrics.finished_request_tokens.inc(sequence.tokens_computed)
        self._metrics.request_duration_seconds.observe(now - sequence.request.arrived_at)
