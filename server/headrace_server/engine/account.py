"""The engine's numbers, written where they become true. rpc counts refusals; this counts everything admitted."""

from collections.abc import Callable
from functools import partial
from math import nan

from prometheus_client import Counter

from headrace_server.config import EngineConfig
from headrace_server.engine.core import Core, News
from headrace_server.engine.first_zeros import first_zeros
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.engine.stream import Times
from headrace_server.metrics import Breakage, ServerMetrics
from headrace_server.request import Finish, Phase, Priority, Request
from headrace_server.telemetry.lengths import length_bucket
from headrace_server.telemetry.work import ModelWork, Part


class Account:
    """Gauges are read from the scheduler at scrape time, so they hold during a long step and on an idle engine."""

    def __init__(
        self,
        metrics: ServerMetrics,
        scheduler: Scheduler,
        core: Core,
        config: EngineConfig,
        clock: Callable[[], float],
        *,
        work: ModelWork | None = None,
    ) -> None:
        """`work` None: what steps cost is not known, and not counted."""
        self._metrics = metrics
        self._work = work
        self._told: dict[Counter, int] = {}  # so far
        self._totals: tuple[tuple[Callable[[], int], Counter], ...] = (
            (lambda: scheduler.prompt_tokens, metrics.prompt_tokens),
            (lambda: scheduler.preemptions, metrics.preemptions),
            (lambda: scheduler.recomputed_tokens, metrics.recomputed_tokens),
            (lambda: scheduler.pages.evictions, metrics.kv_evictions),
            (lambda: scheduler.speculation.guesses, metrics.speculative_guesses),
            (lambda: scheduler.speculation.guessed_tokens, metrics.speculative_tokens),
            (lambda: scheduler.speculation.accepted_tokens, metrics.speculative_accepted_tokens),
            (lambda: scheduler.cache.asked_tokens if scheduler.cache else 0, metrics.prefix_cache_queries),
            (lambda: scheduler.cache.hit_tokens if scheduler.cache else 0, metrics.prefix_cache_hits),
            *((partial(scheduler.tokens.__getitem__, each), metrics.step_tokens.labels(each)) for each in Priority),
        )
        metrics.requests_waiting.set_function(lambda: core.waiting)
        metrics.requests_running.set_function(lambda: scheduler.running)
        metrics.oldest_waiting_seconds.set_function(lambda: core.oldest_waiting(clock()))
        for priority in Priority:
            metrics.requests_waiting_by_class.labels(priority).set_function(partial(core.waiting_of, priority))
            metrics.requests_running_by_class.labels(priority).set_function(partial(scheduler.running_of, priority))
            oldest = partial(_oldest, core, clock, priority)
            metrics.oldest_waiting_seconds_by_class.labels(priority).set_function(oldest)
            metrics.waiting_tokens.labels(priority).set_function(partial(scheduler.queue.tokens, priority))
            metrics.predicted_wait_seconds.labels(priority).set_function(partial(_predicted, core, clock, priority))
        metrics.kv_pressure.set_function(lambda: 1 - scheduler.pages.available / scheduler.pages.total)
        metrics.kv_pages_free.set_function(lambda: scheduler.pages.available)
        metrics.kv_pages_cached.set_function(lambda: scheduler.pages.cached)
        metrics.kv_pages_total.set(scheduler.pages.total)
        metrics.kv_page_size.set(config.page_size)
        metrics.speculating.set_function(lambda: scheduler.speculation.on)
        metrics.max_running.set(config.max_running)
        self._tenants = config.tenants
        first_zeros(metrics)

    def admitted(self, request: Request) -> None:
        self._metrics.requests_received.inc()
        self._metrics.requests_received_by_class.labels(request.priority).inc()
        self._came(request)

    def no_room(self, request: Request) -> None:
        """rpc counts all refusals, by reason; this those that more replicas would have taken in, by class."""
        self._metrics.requests_refused_by_class.labels(request.priority).inc()
        self._came(request)

    def heard(self, news: News) -> None:
        """A step is done. Its tokens and ends are counted one by one with `token` and `ended`."""
        self._count_what_the_scheduler_counted()
        if news.step is None:
            return
        metrics = self._metrics
        metrics.batch_size.observe(len(news.step.chunks))
        for start in news.step.starts:
            if start.queue_wait is not None:
                kind = (start.priority, self._tenants.class_of(start.tenant))
                metrics.queue_wait_seconds.labels(*kind).observe(start.queue_wait)
        metrics.step_seconds.observe(news.seconds)
        metrics.busy_seconds.inc(news.seconds)
        metrics.device_busy_seconds.inc(news.busy)
        self._count_work(news.step)
        metrics.device_gap_seconds.inc(news.gap)
        metrics.generation_tokens.inc(len(news.committed.tokens))
        metrics.padded_tokens.inc(news.padded)
        metrics.discarded_tokens.inc(news.committed.wasted)

    def token(self, sequence: Sequence, now: float, previous: float | None) -> None:
        """`previous`: when this request's last token came; None for its first."""
        if previous is None:
            self._metrics.time_to_first_token_seconds.observe(now - sequence.request.arrived_at)
        else:
            self._metrics.inter_token_latency_seconds.observe(now - previous)

    def ended(self, sequence: Sequence, now: float, times: Times) -> None:
        """The work counted is the work done: an answer cut off early adds only what was computed for it."""
        assert sequence.finish is not None
        if sequence.finish is Finish.EXPIRED:
            self.expired(Phase.QUEUE if sequence.queue_wait is None else Phase.RUNNING)
        self._metrics.requests_finished.labels(sequence.finish).inc()
        self._metrics.finished_request_tokens.inc(sequence.tokens_computed)
        self._metrics.requests_finished_by_class.labels(sequence.request.priority).inc()
        self._metrics.finished_request_tokens_by_class.labels(sequence.request.priority).inc(sequence.tokens_computed)
        self._metrics.request_duration_seconds.observe(now - sequence.request.arrived_at)
        self._observe_shape(sequence)
        self._observe_stages(sequence, now, times)

    def broke(self, fault: Exception) -> None:
        """A step did; the process is about to end."""
        self._metrics.engine_failures.labels(Breakage.of(fault)).inc()

    def expired(self, phase: Phase) -> None:
        self._metrics.requests_expired.labels(phase).inc()

    def _came(self, request: Request) -> None:
        """Of the demand, what was demand before: in the moment in which it is counted again, not when it is over."""
        if request.asked_before:
            self._metrics.requests_retried_by_class.labels(request.priority).inc()

    def _observe_shape(self, sequence: Sequence) -> None:
        metrics, prompt, answer = self._metrics, len(sequence.request.prompt), len(sequence.answer)
        metrics.request_prompt_tokens.observe(prompt)
        metrics.request_generation_tokens.observe(answer)
        metrics.request_max_tokens.observe(sequence.request.max_new_tokens)
        metrics.request_shapes.labels(length_bucket(prompt), length_bucket(answer)).inc()

    def _observe_stages(self, sequence: Sequence, now: float, times: Times) -> None:
        """Of the stages that it came to the end of."""
        if sequence.queue_wait is None:
            return
        began = sequence.request.arrived_at + sequence.queue_wait
        self._metrics.inference_seconds.observe(now - began)
        if times.first is None or times.last is None:
            return
        self._metrics.prefill_seconds.observe(times.first - began)
        self._metrics.decode_seconds.observe(times.last - times.first)
        if (gaps := len(sequence.answer) - 1) > 0:
            self._metrics.time_per_output_token_seconds.observe((times.last - times.first) / gaps)

    def _count_work(self, step: Step) -> None:
        self._metrics.tokens_per_step.observe(_tokens(step))
        if self._work is not None:
            parts = [Part(chunk.start, chunk.tokens) for chunk in step.chunks]
            self._metrics.estimated_flops.inc(self._work.flops(parts, step.samples))
            self._metrics.estimated_bytes.inc(self._work.memory(parts))

    def _count_what_the_scheduler_counted(self) -> None:
        for total, counter in self._totals:
            told = self._told.get(counter, 0)
            self._told[counter] = total()
            counter.inc(self._told[counter] - told)


def _tokens(step: Step) -> int:
    """Those who decode come first and have one token each without guesses: then only the others are looked at."""
    if step.speculates:
        return step.tokens
    more = 0
    for chunk in reversed(step.chunks):
        if not chunk.token_ids:
            break
        more += len(chunk.token_ids) - 1
    return len(step.chunks) + more


def _predicted(core: Core, clock: Callable[[], float], priority: Priority) -> float:
    """Seconds."""
    wait = core.backlog(clock()).wait(priority)
    return nan if wait is None else wait


def _oldest(core: Core, clock: Callable[[], float], priority: Priority) -> float:
    """Seconds."""
    return core.oldest_waiting(clock(), (priority,))
