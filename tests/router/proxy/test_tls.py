"""TLS on both sides of the router: its own certificate, read again, and replicas that show theirs."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import pytest
from certificates import P_384, Authority, Pair
from cryptography import x509
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from replicas import HOST, Replica, running
from routed import Routed, routed

NAME = "scripture.default.svc"


async def generate(router: Routed, authority: Authority) -> set[str]:
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    async with grpc.aio.secure_channel(router.grpc, credentials) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest(text="x"), timeout=300)
        return {reply.text async for reply in call}


async def complete(router: Routed, authority: Authority, **headers: str) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=authority.certificate)
    async with aiohttp.ClientSession() as session:
        url = f"https://{router.http}/v1/completions"
        async with session.post(url, json={"prompt": "x", "stream": True}, headers=headers, ssl=context) as response:
            return response.status, await response.text()


def flags(pair: Pair, authority: Authority) -> list[str]:
    own = [f"--tls-cert={pair.certificate}", f"--tls-key={pair.key}"]
    return [*own, f"--replica-ca={authority.certificate}", f"--replica-name={NAME}"]


async def test_both_sides_speak_tls_and_a_new_certificate_is_taken(tmp_path: Path) -> None:
    inside, old, new = (Authority(tmp_path, name) for name in ("inside", "old", "new"))
    pair = old.sign("router", HOST)
    async with AsyncExitStack() as stack:
        replica = Replica("a")
        await stack.enter_async_context(running(replica, inside.sign("replica", NAME)))
        router = await stack.enter_async_context(routed(tmp_path / "log", replica.flag, *flags(pair, inside)))
        assert await generate(router, old) == {"a"}
        assert (await complete(router, old))[0] == 200
        await router.until("headrace_router_requests_in_flight", 0)

        assert new.sign("router", HOST) == pair, "the same two files"
        async with asyncio.timeout(300):
            while not await is_trusted(router, new):
                await asyncio.sleep(0.1)
        assert await generate(router, new) == {"a"}


async def is_trusted(router: Routed, authority: Authority) -> bool:
    try:
        return (await complete(router, authority))[0] == 200
    except aiohttp.ClientConnectorCertificateError:
        return False


async def test_it_tells_when_certificates_end_and_that_one_was_refused(tmp_path: Path) -> None:
    own, inside = Authority(tmp_path, "own"), Authority(tmp_path, "inside")
    pair = own.sign("router", HOST)
    async with routed(tmp_path / "log", "--replica=127.0.0.1", *flags(pair, inside)) as router:
        ours, theirs = 'file="certificate",model=""', 'file="replica_ca",model=""'
        for labels, file in ((ours, pair.certificate), (theirs, inside.certificate)):
            await router.until(f"headrace_router_certificate_expires_timestamp_seconds{{{labels}}}", end(file))
            await router.until(f"headrace_router_reload_ok{{{labels}}}", 1)
        pair.key.write_text("no key")
        await router.until(f"headrace_router_reload_ok{{{ours}}}", 0)
        assert f"--tls-key {pair.key} are no PEM pair" in router.log.read_text()
        own.sign("router", HOST, until=timedelta(days=9))
        await router.until(f"headrace_router_reload_ok{{{ours}}}", 1)
        await router.until(f"headrace_router_certificate_expires_timestamp_seconds{{{ours}}}", end(pair.certificate))


def end(file: Path) -> float:
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()


async def test_keys_of_both_sides_may_be_on_p_384(tmp_path: Path) -> None:
    """As those that cert-manager makes of size 384."""
    own, inside = Authority(tmp_path, "own"), Authority(tmp_path, "inside")
    async with AsyncExitStack() as stack:
        replica = Replica("a")
        await stack.enter_async_context(running(replica, inside.sign("replica", NAME, curve=P_384)))
        ours = flags(own.sign("router", HOST, curve=P_384), inside)
        router = await stack.enter_async_context(routed(tmp_path / "log", replica.flag, *ours))
        assert (await complete(router, own))[0] == 200
        assert await generate(router, own) == {"a"}


async def test_who_signs_need_not_be_a_root(tmp_path: Path) -> None:
    """As Envoy has it, so have requests that pass through Python."""
    own, inside = Authority(tmp_path, "own"), Authority(tmp_path, "inside", Authority(tmp_path, "root"))
    async with AsyncExitStack() as stack:
        replica = Replica("a")
        await stack.enter_async_context(running(replica, inside.sign("replica", NAME)))
        router = await stack.enter_async_context(
            routed(tmp_path / "log", replica.flag, *flags(own.sign("router", HOST), inside))
        )
        assert (await complete(router, own))[0] == 200
        assert (await complete(router, own, **{"x-headrace-progress": "comments"}))[0] == 200


@dataclass(frozen=True, slots=True)
class Shown:
    """A replica's certificate, and what the router says of it."""

    words: str
    name: str = NAME
    hours: int = 1  # from now on
    by: str = "inside"


SHOWN = {
    "another name": Shown("SAN", name="someone.else.svc"),
    "an end that has come": Shown("expired", hours=-1),
    "another authority": Shown("unable to get local issuer certificate", by="outside"),
}


@pytest.mark.parametrize("what", SHOWN)
async def test_a_replica_that_shows_what_is_wrong_gets_nothing_and_the_log_says_why(tmp_path: Path, what: str) -> None:
    inside, old = Authority(tmp_path, "inside"), Authority(tmp_path, "old")
    shown = SHOWN[what]
    signer = inside if shown.by == "inside" else Authority(tmp_path, shown.by)
    async with AsyncExitStack() as stack:
        replica = Replica("a")
        pair = signer.sign("replica", shown.name, until=timedelta(hours=shown.hours))
        await stack.enter_async_context(running(replica, pair))
        router = await stack.enter_async_context(
            routed(tmp_path / "log", replica.flag, *flags(old.sign("router", HOST), inside))
        )
        assert (await complete(router, old))[0] == 503
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await generate(router, old)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not replica.metadata
        await router.until("headrace_router_requests_in_flight", 0)
        said = [line for line in router.log.read_text().splitlines() if "cannot be spoken to" in line]
        assert len(said) == 2, "once for each of its ports"
        assert all(shown.words in line for line in said), said
