"""/metrics for Prometheus, /healthz and /readyz for the kubelet, /models for people."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


async def serve(
    host: str,
    port: int,
    registry: CollectorRegistry,
    not_ready: Callable[[], Awaitable[str | None]],
    models: Callable[[], str],
) -> web.AppRunner:
    """Starts listening. `not_ready`: why no request should come, None if it may. `models`: who answered how much."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        reason = await not_ready()
        return web.Response(status=503, text=reason) if reason else web.Response(text="ok")

    async def shares(_: web.Request) -> web.Response:
        return web.Response(text=models())

    app = web.Application()
    doors = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/models": shares}
    app.add_routes([web.get(path, answer) for path, answer in doors.items()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
