"""/metrics for Prometheus, /healthz and /readyz for the kubelet. Healthy means that the loop turns."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


async def serve(
    host: str, port: int, registry: CollectorRegistry, trouble: Callable[[], str | None], is_ready: Callable[[], bool]
) -> web.AppRunner:
    """Starts listening. `trouble` says in words why this process should be restarted, or None."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        said = trouble()
        return web.Response(status=500, text=said) if said else web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="first list not done")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
