"""Startup, readiness and liveness probes: HTTP, TCP, gRPC and exec, with a kubelet's thresholds."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Body = Mapping[str, Any]
Run = Callable[[list[str], float], Awaitable[int]]  # (command, timeout in seconds) -> exit status, in the container


@dataclass(frozen=True, slots=True)
class Place:
    """Where a probe asks."""

    session: aiohttp.ClientSession
    address: str
    ports: Mapping[str, int]  # by name
    run: Run


async def probe(body: Body, place: Place) -> str | None:
    """None when it passes, else what went wrong."""
    timeout = float(body.get("timeoutSeconds", 1))
    try:
        # Not wait_for: until Python 3.12 it forgets that it was cancelled where the answer comes at the same moment.
        async with asyncio.timeout(timeout):
            return await _ask(body, place, timeout)
    except (OSError, aiohttp.ClientError, grpc.aio.AioRpcError) as error:
        return f"{type(error).__name__}: {error}"


async def _ask(body: Body, place: Place, timeout: float) -> str | None:
    if "httpGet" in body:
        return await _http(body["httpGet"], place)
    if "tcpSocket" in body:
        _, writer = await asyncio.open_connection(place.address, _port(body["tcpSocket"]["port"], place))
        writer.close()
        return None
    if "grpc" in body:
        return await _grpc(body["grpc"], place)
    status = await place.run(list(body["exec"]["command"]), timeout)
    return None if status == 0 else f"exit status {status}"


async def _http(body: Body, place: Place) -> str | None:
    host, scheme = body.get("host") or place.address, body.get("scheme", "HTTP").lower()
    url = f"{scheme}://{host}:{_port(body['port'], place)}{body.get('path', '/')}"
    headers = {header["name"]: header["value"] for header in body.get("httpHeaders", [])}
    async with place.session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer:
        return None if 200 <= answer.status < 400 else f"HTTP status {answer.status}"


async def _grpc(body: Body, place: Place) -> str | None:
    async with grpc.aio.insecure_channel(f"{place.address}:{body['port']}") as channel:
        request = health_pb2.HealthCheckRequest(service=body.get("service") or "")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request)  # type: ignore[attr-defined]
    is_serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return None if is_serving else f"gRPC health {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def _port(port: int | str, place: Place) -> int:
    return port if isinstance(port, int) else place.ports[port]


async def watch(body: Body, place: Place, verdict: Callable[[bool, str], None]) -> None:
    """Asks for ever; `verdict` hears each time a threshold is crossed: (True, "") or (False, why)."""
    await asyncio.sleep(float(body.get("initialDelaySeconds", 0)))
    streak, last, told = 0, None, None
    while True:
        trouble = await probe(body, place)
        passed = trouble is None
        streak, last = (streak + 1 if passed == last else 1), passed
        needed = body.get("successThreshold", 1) if passed else body.get("failureThreshold", 3)
        if streak >= needed and told != passed:
            told = passed
            verdict(passed, trouble or "")
        await asyncio.sleep(float(body.get("periodSeconds", 10)))
