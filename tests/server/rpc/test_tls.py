"""Both doors over TLS: certificates that count, certificates that do not, and new ones while the server runs."""

import asyncio
import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import pytest
from certificates import Authority, Pair
from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.errors import ModelRefused
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.tls import load_tls
from open_server import HOST, PATIENCE
from over_tls import generate, over_tls, post
from scripted_runner import ScriptedRunner

LONG_AGO = timedelta(days=-1)
NOBODY = (ssl.SSLError, aiohttp.ClientError, ConnectionError)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    pair = authority.sign("server", HOST, "localhost")
    return TlsFiles(pair.certificate, pair.key)


async def test_both_doors_speak_tls_and_nothing_else(
    model: Path, runner: ScriptedRunner, authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    async with over_tls(model, runner, AccessConfig(tls=files)) as server:
        assert (await post(server, authority))[0] == 200
        assert await generate(server, authority) is grpc.StatusCode.OK
        foreign = Authority(tmp_path, "foreign")
        with pytest.raises(NOBODY):
            await post(server, foreign)  # the client trusts somebody else
        assert await generate(server, foreign) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(f"{server.http}/health"):
                pass


async def test_keys_are_asked_for_over_tls(
    model: Path, runner: ScriptedRunner, authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(line("team-a", key))
    async with over_tls(model, runner, AccessConfig(keys, files)) as server:
        assert (await post(server, authority, Authorization=f"Bearer {key}"))[0] == 200
        assert (await post(server, authority))[0] == 401
        assert await generate(server, authority, metadata=[("authorization", f"Bearer {key}")]) is grpc.StatusCode.OK
        assert await generate(server, authority) is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def mutual(files: TlsFiles, authority: Authority) -> AccessConfig:
    return AccessConfig(tls=TlsFiles(files.certificate, files.key, authority.certificate))


@pytest.mark.parametrize(
    ("names", "common_name", "tenant"),
    [
        pytest.param(
            ("spiffe://example.org/ns/chat", "chat.example"), "chat", "spiffe://example.org/ns/chat", id="URI"
        ),
        pytest.param(("chat.example", "other.example"), "chat", "chat.example", id="DNS name"),
        pytest.param((), "chat", "chat", id="common name"),
    ],
)
async def test_a_client_certificate_says_who_asks(  # noqa: PLR0917 - fixtures
    model: Path,
    runner: ScriptedRunner,
    authority: Authority,
    mutual: AccessConfig,
    names: tuple[str, ...],
    common_name: str,
    tenant: str,
) -> None:
    shown = authority.sign("client", *names, common_name=common_name)
    async with over_tls(model, runner, mutual) as server:
        for said, status, code in (
            (tenant, 200, grpc.StatusCode.OK),
            (f"{tenant}/bob", 200, grpc.StatusCode.OK),
            ("somebody else", 403, grpc.StatusCode.PERMISSION_DENIED),
        ):
            field = {"x-headrace-tenant": said}
            assert (await post(server, authority, shown, **field))[0] == status
            assert await generate(server, authority, shown, list(field.items())) is code


async def test_what_one_certificate_asked_is_never_found_by_another(
    model: Path, runner: ScriptedRunner, authority: Authority, mutual: AccessConfig
) -> None:
    ours, theirs = (authority.sign(name, common_name=name) for name in ("team-a", "team-b"))
    async with over_tls(model, runner, mutual) as server:

        async def hits(shown: Pair) -> float:
            before = server.sample("headrace_prefix_cache_hits_total")
            assert (await post(server, authority, shown))[0] == 200
            return server.sample("headrace_prefix_cache_hits_total") - before

        assert [await hits(ours) > 0, await hits(ours) > 0, await hits(theirs) > 0] == [False, True, False]


async def test_certificates_that_do_not_count_get_no_connection(
    model: Path, runner: ScriptedRunner, authority: Authority, mutual: AccessConfig, tmp_path: Path
) -> None:
    shown = {
        "none": None,
        "expired": authority.sign("expired", common_name="team-a", until=LONG_AGO),
        "foreign": Authority(tmp_path, "foreign").sign("client", common_name="team-a"),
    }
    async with over_tls(model, runner, mutual, admin_port=0) as server:
        for what, pair in shown.items():
            with pytest.raises(NOBODY):
                await post(server, authority, pair)
            assert await generate(server, authority, pair) is grpc.StatusCode.UNAVAILABLE, what
        nameless = authority.sign("nameless")
        assert (await post(server, authority, nameless))[0] == 401
        assert await generate(server, authority, nameless) is grpc.StatusCode.UNAUTHENTICATED
        assert server.sample("headrace_requests_received_total") == 0
        ready = f"http://{HOST}:{server.doors.admin_port}/ready"  # for the kubelet, which has no certificate
        async with aiohttp.ClientSession() as session, session.get(ready) as answer:
            assert answer.status == 200


async def test_new_connections_get_new_certificates_and_a_broken_pair_changes_nothing(
    model: Path, runner: ScriptedRunner, authority: Authority, mutual: AccessConfig, tmp_path: Path
) -> None:
    assert mutual.tls is not None
    assert mutual.tls.client_ca is not None
    later = Authority(tmp_path, "later")
    fresh = later.sign("fresh", HOST)
    old_client, new_client = authority.sign("a", common_name="a"), later.sign("b", common_name="b")
    async with over_tls(model, runner, mutual) as server, asyncio.timeout(PATIENCE):
        assert (await post(server, authority, old_client))[0] == 200
        shutil.copy(fresh.certificate, mutual.tls.certificate)  # without its key yet, as between two copies
        while server.sample("headrace_reload_ok", file="tls"):
            await asyncio.sleep(0.05)
        assert (await post(server, authority, old_client))[0] == 200
        shutil.copy(later.certificate, mutual.tls.client_ca)
        shutil.copy(fresh.key, mutual.tls.key)  # last: from here on a look finds what makes sense, and all of it
        while not server.sample("headrace_reload_ok", file="tls"):
            await asyncio.sleep(0.05)
        assert (await post(server, later, new_client))[0] == 200
        assert await generate(server, later, new_client) is grpc.StatusCode.OK
        with pytest.raises(NOBODY):
            await post(server, later, old_client)
        assert await generate(server, later, old_client) is grpc.StatusCode.UNAVAILABLE


def test_files_that_are_no_certificate_and_its_key_are_refused_by_name(
    files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    other = authority.sign("other", HOST)
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for wrong, message in (
        (TlsFiles(files.certificate, other.key), "--tls-key"),
        (TlsFiles(junk, files.key), "--tls-cert"),
        (TlsFiles(tmp_path / "missing", files.key), "--tls-cert .*missing: No such file"),
        (TlsFiles(files.certificate, files.key, junk), "--tls-client-ca"),
        (TlsFiles(files.certificate, files.key, tmp_path / "missing"), "--tls-client-ca .*missing: No such file"),
    ):
        with pytest.raises(ModelRefused, match=message):
            load_tls(wrong)
