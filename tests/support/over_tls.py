"""A server behind TLS, and a client of each door that shows a certificate or none."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from certificates import Authority, Pair
from headrace_server.config import AccessConfig
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from open_server import HOST, NAME, PATIENCE, OpenServer, open_server
from scripted_runner import ScriptedRunner

COMPLETION = {"model": NAME, "prompt": "In the beginning " * 8, "max_tokens": 2, "temperature": 0}


@asynccontextmanager
async def over_tls(model: Path, runner: ScriptedRunner, access: AccessConfig, **more: Any) -> AsyncIterator[OpenServer]:
    async with open_server(model, runner, differs={"access": access, **more}) as server:
        yield server


async def post(
    server: OpenServer, authority: Authority, shown: Pair | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Raises ssl.SSLError, aiohttp.ClientError or ConnectionError when there is no connection."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    url = f"https://{HOST}:{server.doors.http_port}/v1/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=COMPLETION, headers=headers, ssl=context) as answer,
    ):
        return answer.status, await answer.json()


async def generate(
    server: OpenServer, authority: Authority, shown: Pair | None = None, metadata: Sequence[tuple[str, str]] = ()
) -> grpc.StatusCode:
    chain = None if shown is None else shown.certificate.read_bytes()
    key = None if shown is None else shown.key.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, chain)
    async with grpc.aio.secure_channel(server.grpc, credentials) as channel:
        request = pb.GenerateRequest(text="In the beginning", max_new_tokens=2)
        call = inference_pb2_grpc.InferenceStub(channel).Generate(request, metadata=list(metadata), timeout=PATIENCE)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        return await call.code()
