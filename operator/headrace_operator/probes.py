"""/metrics for Prometheus, /healthz and /readyz for the kubelet. Healthy: the loop turns, and changes are heard."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

SILENCE = 60.0  # seconds without a turn of the loop, after which a restart is asked for


def trouble(silent: float, watches_ended: str | None) -> str | None:
    """Why this process should be restarted. `silent`: seconds since the loop's last turn; `watches_ended`: and why."""
    if watches_ended is not None:
        return f"the watches ended: {watches_ended}"
    return f"no turn for {silent:.0f} s" if silent > SILENCE else None


async def serve(
    host: str, port: int, registry: CollectorRegistry, ails: Callable[[], str | None], is_ready: Callable[[], bool]
) -> web.AppRunner:
    """Starts listening. `ails` says what `trouble` does."""

    async def metrics(_: web.Request) -> web.Response:
        # In a thread: for 500 objects this takes a second, in which the loop looks after them and renews the Lease.
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        said = ails()
        return web.Response(status=500, text=said) if said else web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="first list not done")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
