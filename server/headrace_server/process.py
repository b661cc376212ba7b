"""The life of one server process: listen, load, warm up, serve, drain, leave."""

import asyncio
import logging
import os
import signal
import sys
import time

from prometheus_client import CollectorRegistry, ProcessCollector

from headrace_server.config import ServerConfig
from headrace_server.drain import drain
from headrace_server.errors import EngineFailed
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.batches.runner import OfflineRunner
from headrace_server.rpc.doors import Doors, open_doors
from headrace_server.rpc.readiness import Phase
from headrace_server.startup import Warm, start_up
from headrace_server.task import Opened, WarmEmbedder, load, opened

CUT_OFF = 1  # exit status: the drain timeout passed with requests still inside
EX_SOFTWARE = 70  # sysexits.h: the engine failed; Kubernetes restarts the container
log = logging.getLogger(__name__)


async def serve(config: ServerConfig) -> int:
    """The exit status. Raises ModelRefused, or OSError when a port is taken."""
    leave = _leave_on_signals()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = ServerMetrics(registry)
    metrics.model_info.labels(config.name, config.device, config.dtype).set(1)
    doors = await open_doors(config, metrics, registry)
    log.info("listening: gRPC %s:%d, HTTP %s:%d", config.host, doors.grpc_port, config.host, doors.http_port)
    log.info("metrics and drain: %s:%d", config.host, doors.admin_port)
    try:
        warm = await _unless(leave, start_up(config, doors.readiness, metrics, load))
        if warm is None:
            await _leave_while_loading(doors)
        else:
            return await _answer_until(leave, config, opened(config, warm, metrics), doors, metrics)
    finally:
        await doors.close()
    return 0


async def _answer_until(
    leave: asyncio.Event, config: ServerConfig, model: Opened, doors: Doors, metrics: ServerMetrics
) -> int:
    status = EX_SOFTWARE
    try:
        async with asyncio.TaskGroup() as group:
            heartbeat = group.create_task(model.engine.run(), name="engine")
            await doors.serve(model.answers, model.embedder, model.tokens)
            offline = group.create_task(_run_offline(config, doors, metrics), name="offline")
            log.info("ready: %s, context %d tokens", config.name, model.most_tokens)
            await _told_to_leave(leave, doors)
            offline.cancel()  # nobody waits for it: the store keeps it for the next process
            complete = await drain(doors, model.engine, config.max_connection_age, config.drain_timeout)
            metrics.drained.set(complete)
            await leave.wait()  # a process that ended earlier, by /drain alone, would be started again by the kubelet
            status = 0 if complete else CUT_OFF
            heartbeat.cancel()
    except* EngineFailed:
        log.exception("the engine failed")
        await doors.turn_away(Phase.FAILED)
        status = EX_SOFTWARE
    return status


async def _run_offline(config: ServerConfig, doors: Doors, metrics: ServerMetrics) -> None:
    """Until cancelled; returns at once when no offline jobs are kept here."""
    if doors.store is not None and config.batches is not None:
        wall_clock = time.time  # noqa: TID251 - a batch expires at a date
        runner = OfflineRunner(
            doors.store,
            doors.readiness,
            metrics,
            model=config.name,
            adapters=config.lora.names,
            concurrency=config.batches.concurrency,
            wall_clock=wall_clock,
        )
        await runner.run()


async def _told_to_leave(leave: asyncio.Event, doors: Doors) -> None:
    """By a signal or by /drain."""
    told = [asyncio.create_task(event.wait()) for event in (leave, doors.drain_call.asked)]
    try:
        await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in told:
            task.cancel()


async def _unless(leave: asyncio.Event, warm: "asyncio.Future[Warm | WarmEmbedder]") -> Warm | WarmEmbedder | None:
    """The warm model, or None when the process is asked to leave first."""
    leaving = asyncio.create_task(leave.wait())
    try:
        await asyncio.wait((warm, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    return warm.result() if warm.done() else None


async def _leave_while_loading(doors: Doors) -> None:
    """Does not return: the loading thread is inside native code, which the interpreter's exit would crash or await."""
    await doors.turn_away(Phase.DRAINING)
    log.info("asked to leave before the model was loaded; no request was inside")
    await doors.close()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)


def _leave_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second one has its default effect: the process ends at once."""
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        leave.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)
    return leave
