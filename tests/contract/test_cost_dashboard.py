"""The dashboard about cost has data of a real server whose device's peaks are known, in a real Prometheus."""

import asyncio
from pathlib import Path

import aiohttp
from dashboards import cost
from prometheus_server import Body, Prometheus, prometheus
from served_process import NAME, ServedProcess, serve_command, served

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "models" / "scripture-5m"
ALERTS = ROOT / "charts" / "headrace" / "files" / "alerts.yaml"
PEAKS = ("--peak-tflops=1", "--peak-memory-gbs=10")
CHOSEN = (("$__rate_interval", "10s"), ("$hour_price", "2"), ("$namespace", "team-a"), ("$name", "chat"))
ONLY_ON_A_GPU = "headrace_gpu_"


def pod(server: ServedProcess) -> Body:
    """As the API server would tell of it."""
    address, port = server.admin.split(":")
    labels = {"app.kubernetes.io/name": "headrace-server", "headrace.dev/deployment": "chat"}
    return {
        "metadata": {"namespace": "team-a", "name": "chat-0", "labels": labels},
        "spec": {"containers": [{"ports": [{"name": "admin", "containerPort": int(port)}]}]},
        "status": {"podIP": address},
    }


async def ask(server: ServedProcess, session: aiohttp.ClientSession) -> None:
    body = {"model": NAME, "prompt": "In the beginning", "max_tokens": 16}
    async with session.post(f"http://{server.http}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()


async def missing(seen: Prometheus) -> list[str]:
    """Queries without data."""
    exprs = [query.expr for query in cost.BOARD.queries if ONLY_ON_A_GPU not in query.expr]
    assert len(exprs) > 10
    empty = []
    for expr in exprs:
        text = expr
        for variable, value in CHOSEN:
            text = text.replace(variable, value)
        if not await asyncio.to_thread(seen.query, text):
            empty.append(expr)
    return empty


async def test_every_panel_has_data_but_those_of_gpus(tmp_path: Path) -> None:
    async with served(serve_command(MODEL, "--cpu-threads=1", "--admin-port=0", *PEAKS), tmp_path) as server:
        with prometheus(ALERTS, tmp_path) as seen:
            seen.find([pod(server)])
            async with aiohttp.ClientSession() as session, asyncio.timeout(300):
                while empty := await missing(seen):
                    await ask(server, session)
                    await asyncio.sleep(0.5)
            assert empty == []
