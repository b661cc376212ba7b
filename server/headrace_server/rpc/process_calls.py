"""What acts on the whole process, beside draining it: a profile of some steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from headrace_server.errors import InvalidRequest, NotNow
from headrace_server.rpc.admin import AdminToken
from headrace_server.rpc.readiness import Readiness
from headrace_server.rpc.replies import json_response

MOST_STEPS = 1000  # a trace of so many has hundreds of megabytes
PATIENCE, MOST_PATIENCE = 30.0, 300.0  # seconds


@dataclass(frozen=True, slots=True)
class ProcessCalls:
    readiness: Readiness
    token: AdminToken
    profile_dir: Path | None  # None: profiling is refused
    wall_clock: Callable[[], float]  # seconds since 1970, for file names

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.post("/debug/profile", self.token.needed_for(self.profile))]

    async def profile(self, request: web.Request) -> web.StreamResponse:
        """?steps=N&timeout=SECONDS. Answers when the trace is written."""
        steps = int(_number(request, "steps", 10, 1, MOST_STEPS))
        patience = _number(request, "timeout", PATIENCE, 0.1, MOST_PATIENCE)
        if self.profile_dir is None:
            raise NotNow("profiling needs a directory for its files; start the server with --profile-dir=DIR")
        engine = self.readiness.answers().engine
        began = time.monotonic()
        path = self.profile_dir / f"steps-{int(self.wall_clock() * 1000)}.json"
        held = await engine.profile(steps, path, patience)
        if not held:
            raise NotNow(f"no step ran in {patience:g} s, so there is nothing to see; send requests while you profile")
        return json_response({"path": str(path), "steps": held, "seconds": time.monotonic() - began})


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
