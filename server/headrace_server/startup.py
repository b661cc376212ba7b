"""From a checkpoint directory to a warm model, in a thread: the doors answer /health and /ready meanwhile."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from headrace_server.config import ServerConfig
from headrace_server.engine.loop import Limits, Runner
from headrace_server.errors import ModelRefused
from headrace_server.gate import entry
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.grammars import Grammars, load_grammars
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.text import Text, load_text
from headrace_server.telemetry.expose import expose_device
from headrace_server.telemetry.work import ModelWork


@dataclass(frozen=True, slots=True)
class Warm:
    runner: Runner
    limits: Limits
    text: Text
    grammars: Grammars
    work: ModelWork


class PhaseTimes:
    """headrace_startup_phase_*: what a cold start spent its time on, and when."""

    def __init__(self, metrics: ServerMetrics, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """`wall_clock` gives seconds since 1970."""
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._phase: str | None = None
        self._since = clock()

    def enter(self, phase: str | None) -> None:
        """Ends the phase before; None ends the last one."""
        now = self._clock()
        if self._phase is not None:
            self._metrics.startup_phase_seconds.labels(self._phase).set(now - self._since)
            self._metrics.startup_phase_timestamp_seconds.labels(self._phase).set(self._wall_clock())
        self._phase, self._since = phase, now


Loaded = TypeVar("Loaded")
Load = Callable[[ServerConfig, Readiness, ServerMetrics], Loaded]


def start_up(
    config: ServerConfig, readiness: Readiness, metrics: ServerMetrics, load: Load[Loaded]
) -> "asyncio.Future[Loaded]":
    """The future fails with ModelRefused, or with whatever broke.

    The thread is a daemon: a SIGTERM while tens of gigabytes load must not wait for them. It ends when all is loaded,
    and its OpenMP pool with it: beside a second pool, even one that sleeps, each product's threads wake up anew.
    """
    loop = asyncio.get_running_loop()
    warm: asyncio.Future[Loaded] = loop.create_future()

    def work() -> None:
        try:
            result = load(config, readiness, metrics)
            _set_aside()
        except BaseException as error:  # raised again where the future is awaited
            loop.call_soon_threadsafe(_settle, warm, None, error)
        else:
            loop.call_soon_threadsafe(_settle, warm, result, None)

    threading.Thread(target=work, name="start-up", daemon=True).start()
    return warm


def load_generator(config: ServerConfig, readiness: Readiness, metrics: ServerMetrics) -> Warm:
    """Raises ModelRefused."""
    wall_clock = time.time  # noqa: TID251 - the operator compares it with Kubernetes' own times
    times = PhaseTimes(metrics, time.monotonic, wall_clock)
    report = None
    if config.gate is not None:
        times.enter("gate")
        guessing = config.engine.speculative
        report = entry.check(config.gate, config.model, None if guessing is None else guessing.draft_model)
    times.enter("tokenizer")
    text = load_text(config.model)
    times.enter("import")
    from headrace_server.model.loading import load_model  # noqa: PLC0415 - torch takes seconds, /health must not wait

    loaded = load_model(config, times.enter)
    metrics.device_info.labels(loaded.device).set(1)
    expose_device(config, metrics, loaded.gpu)
    if report is not None:
        entry.tell_if_moved(report, loaded.gpu)
    _check_vocabularies(config, text, loaded.limits)
    times.enter("grammars")
    grammars = load_grammars(config.model, loaded.limits)
    if loaded.runner.captures:
        times.enter("graphs")
        loaded.runner.capture()
    times.enter(Phase.WARMING)
    readiness.enter(Phase.WARMING)
    loaded.runner.warm_up()
    times.enter(None)
    return Warm(loaded.runner, loaded.limits, text, grammars, loaded.work)


def _set_aside() -> None:
    """What is loaded now stays for good: 350,000 objects. Each time the garbage collector looked through all of them,
    every thread stood still, for 290 and 190 ms in 17 s of load on a busy CPU. What came since takes it 8 ms.
    """
    gc.collect()
    gc.freeze()


def _check_vocabularies(config: ServerConfig, text: Text, limits: Limits) -> None:
    if text.vocab_size > limits.vocab_size:
        raise ModelRefused(
            f"{config.model}: tokenizer.json has token ids up to {text.vocab_size - 1}, the weights only up to "
            f"{limits.vocab_size - 1}; put the tokenizer of these weights beside them"
        )


def _settle(future: "asyncio.Future[Loaded]", result: Loaded | None, error: BaseException | None) -> None:
    if future.done():  # the process is leaving
        return
    if error is not None:
        future.set_exception(error)
    elif result is not None:
        future.set_result(result)
