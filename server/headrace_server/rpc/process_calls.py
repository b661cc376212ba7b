"""What is asked of the whole process, beside draining it: a profile of some steps, sleep, and how busy it is.

Sleep gives the KV cache's memory to somebody else on the same device, and is over in a fraction of a cold start.
Paths and answers are vLLM's, whose clients then work.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from aiohttp import web

from headrace_server.errors import InvalidRequest, NotNow
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.admin import AdminToken
from headrace_server.rpc.load_report import load_now
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.replies import json_response
from headrace_server.telemetry.values import value_of

MOST_STEPS = 1000  # a trace of so many has hundreds of megabytes
PATIENCE, MOST_PATIENCE = 30.0, 300.0  # seconds
log = logging.getLogger(__name__)


class SaysHealth(Protocol):
    """The other door."""

    async def say_serving(self) -> None: ...

    async def say_not_serving(self) -> None: ...


class ProcessCalls:
    def __init__(
        self,
        readiness: Readiness,
        metrics: ServerMetrics,
        token: AdminToken,
        profile_dir: Path | None,
        wall_clock: Callable[[], float],
    ) -> None:
        """`profile_dir` None: profiling is refused. `wall_clock`: seconds since 1970, for file names."""
        self.says_health: SaysHealth | None = None  # None: the other door is not open yet
        self._readiness = readiness
        self._metrics = metrics
        self._token = token
        self._profile_dir = profile_dir
        self._wall_clock = wall_clock

    def routes(self) -> Sequence[web.RouteDef]:
        """Looking is free, as with /metrics; what acts needs the pod's token."""
        return [
            web.get("/load", self.load),
            web.get("/is_sleeping", self.is_sleeping),
            web.post("/debug/profile", self._token.needed_for(self.profile)),
            web.post("/sleep", self._token.needed_for(self.sleep)),
            web.post("/wake_up", self._token.needed_for(self.wake_up)),
        ]

    async def load(self, _: web.Request) -> web.StreamResponse:
        """`server_load` is vLLM's: requests inside."""
        now = load_now(self._metrics)
        document = {
            "server_load": int(value_of(self._metrics.requests_inside) or 0),
            "requests_waiting": now.waiting,
            "requests_running": now.running,
            "max_running": now.max_running,
            "kv_cache_usage": now.kv_usage,
            "utilization": now.utilization,
            "oldest_waiting_seconds": value_of(self._metrics.oldest_waiting_seconds),
            "phase": self._readiness.phase,
        }
        return json_response(document)

    async def is_sleeping(self, _: web.Request) -> web.StreamResponse:
        return json_response({"is_sleeping": self._readiness.phase is Phase.SLEEPING})

    async def sleep(self, request: web.Request) -> web.StreamResponse:
        """?level=1. Answers when the memory is free: what runs comes to its end before, what comes is refused."""
        level = request.query.get("level", "1")
        if level != "1":
            raise InvalidRequest("level", f"is {level!r}; must be 1: the KV cache is given back, the weights stay")
        engine = self._readiness.answers().engine
        if self._readiness.phase not in (Phase.READY, Phase.SLEEPING):
            raise NotNow(f"this replica is {self._readiness.phase}; only one that is ready can go to sleep")
        self._readiness.enter(Phase.SLEEPING)
        await self._say_health()
        try:
            await engine.sleep()
        finally:
            self._metrics.sleeping.set(engine.asleep)
            await self._wake_unless(engine.asleep)
        log.info("asleep: the KV cache is given back")
        return json_response({"is_sleeping": True})

    async def wake_up(self, _: web.Request) -> web.StreamResponse:
        """Answers when requests are served again."""
        engine = self._readiness.answers().engine
        await engine.wake_up()
        self._metrics.sleeping.set(engine.asleep)
        await self._wake_unless(engine.asleep)
        log.info("awake")
        return json_response({"is_sleeping": False})

    async def profile(self, request: web.Request) -> web.StreamResponse:
        """?steps=N&timeout=SECONDS. Answers when the trace is written."""
        steps = int(_number(request, "steps", 10, 1, MOST_STEPS))
        patience = _number(request, "timeout", PATIENCE, 0.1, MOST_PATIENCE)
        if self._profile_dir is None:
            raise NotNow("profiling needs a directory for its files; start the server with --profile-dir=DIR")
        engine = self._readiness.answers().engine
        began = time.monotonic()
        path = self._profile_dir / f"steps-{int(self._wall_clock() * 1000)}.json"
        held = await engine.profile(steps, path, patience)
        if not held:
            raise NotNow(f"no step ran in {patience:g} s, so there is nothing to see; send requests while you profile")
        return json_response({"path": str(path), "steps": held, "seconds": time.monotonic() - began})

    async def _wake_unless(self, asleep: bool) -> None:
        """A replica that was told to drain meanwhile stays as it is."""
        if not asleep and self._readiness.phase is Phase.SLEEPING:
            self._readiness.wake()
            await self._say_health()

    async def _say_health(self) -> None:
        if self.says_health is None:
            return
        if self._readiness.phase is Phase.READY:
            await self.says_health.say_serving()
        else:
            await self.says_health.say_not_serving()


def _number(request: web.Request, name: str, default: float, least: float, most: float) -> float:
    """Raises InvalidRequest."""
    word = request.query.get(name)
    try:
        value = default if word is None else float(word)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise InvalidRequest(name, f"is {word!r}; must be a number from {least:g} to {most:g}")
    return value
