"""Leaving without losing a request.

SIGTERM or POST /drain
        ─► /ready 503, health NOT_SERVING                          routing learns of it; everything is still served
        ─► quiet, or every connection has been told to move        gRPC and idle HTTP close, the engine refuses
        ─► nothing waits, nothing runs, every answer is written    the process ends; after /drain it waits for SIGTERM
"""

import asyncio
import logging
from typing import Protocol

from headrace_server.rpc.doors import LAST_BYTES, Doors
from headrace_server.rpc.readiness import Phase

# Seconds without a new request that count as quiet. A gRPC server that stops cancels the few calls that reach it in
# the same millisecond (measured: one in each stop at 500 requests/s), so it stops only when none are coming.
QUIET = 2.0
AGE_JITTER = 1.1  # gRPC varies each connection's age by up to 10 %
LOOK_AGAIN = 0.05  # seconds
log = logging.getLogger(__name__)


class Engine(Protocol):
    def begin_drain(self) -> None:
        """What is not inside yet is refused from now on."""

    async def drained(self) -> None:
        """Returns when nothing is inside."""


async def drain(doors: Doors, engine: Engine, max_connection_age: float, timeout: float) -> bool:
    """True when everything was answered; False when the timeout (seconds) cut requests off."""
    await doors.turn_away(Phase.DRAINING)
    log.info("draining: %d requests inside", doors.arrivals.inside)
    try:
        async with asyncio.timeout(timeout):
            await _until_quiet(doors, at_most=max_connection_age * AGE_JITTER + QUIET)
            await _finish(doors, engine, timeout)
    except TimeoutError:
        log.warning("drain timeout of %.0f s: %d requests are cut off", timeout, doors.arrivals.inside)
        return False
    log.info("drained")
    return True


async def _until_quiet(doors: Doors, at_most: float) -> None:
    """At least QUIET seconds, in which the removal from routing spreads.

    Each look counts for LOOK_AGAIN and no more: an event loop that stood still has heard nobody and has told no
    connection to move, and whoever came meanwhile is heard only after it.
    """
    loop = asyncio.get_running_loop()
    waited, quiet = 0.0, 0.0
    while waited < at_most and quiet < QUIET:
        looked = loop.time()
        await asyncio.sleep(LOOK_AGAIN)
        heard = doors.arrivals.quiet_for() < loop.time() - looked
        quiet = 0.0 if heard else quiet + LOOK_AGAIN
        waited += LOOK_AGAIN


async def _finish(doors: Doors, engine: Engine, timeout: float) -> None:
    doors.hang_up_idle_http()
    closing = asyncio.create_task(doors.grpc.server.stop(timeout))  # GOAWAY now; running streams go on
    engine.begin_drain()
    await engine.drained()
    await doors.arrivals.all_left()
    await doors.grpc.server.stop(LAST_BYTES)  # ends health watches, which never end by themselves
    await closing
