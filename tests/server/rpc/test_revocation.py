"""Client certificates that were withdrawn: both doors, new lists while the server runs, lists that make no sense."""

import asyncio
import base64
import logging
import shutil
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Pair
from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.errors import ModelRefused, Unauthenticated
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.revocation import load_revoked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_server import HOST, PATIENCE, OpenServer
from over_tls import generate, over_tls, post
from scripted_runner import ScriptedRunner

OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


def mutual(authority: Authority, lists: Path) -> TlsFiles:
    pair = authority.sign("server", HOST, "localhost")
    return TlsFiles(pair.certificate, pair.key, authority.certificate, lists)


async def asked(server: OpenServer, authority: Authority, shown: Pair, **headers: str) -> tuple[int, grpc.StatusCode]:
    metadata = [(name.lower(), value) for name, value in headers.items()]
    return (await post(server, authority, shown, **headers))[0], await generate(server, authority, shown, metadata)


async def test_a_revoked_certificate_counts_no_more_at_either_door(
    model: Path, runner: ScriptedRunner, authority: Authority
) -> None:
    good, bad = (authority.sign(name, common_name=name) for name in ("good", "bad"))
    files = mutual(authority, authority.revoke("list", bad))
    async with over_tls(model, runner, AccessConfig(tls=files)) as server:
        assert await asked(server, authority, good) == (200, OK)
        assert await asked(server, authority, bad) == (401, REFUSED)
        _, told = await post(server, authority, bad)
        assert "was revoked" in told["error"]["message"]
        assert server.sample("headrace_requests_received_total") == 2
        assert server.sample("headrace_requests_refused_total", reason="unauthenticated") == 3


async def test_a_key_does_not_save_a_revoked_certificate(
    model: Path, runner: ScriptedRunner, authority: Authority, tmp_path: Path
) -> None:
    bad, key, keys = authority.sign("bad", common_name="bad"), new_key(), tmp_path / "keys"
    keys.write_text(line("team-a", key))
    files = mutual(authority, authority.revoke("list", bad))
    async with over_tls(model, runner, AccessConfig(keys, files)) as server:
        assert await asked(server, authority, bad, Authorization=f"Bearer {key}") == (401, REFUSED)


async def test_a_new_list_ends_connections_that_are_open_and_a_broken_one_changes_nothing(
    model: Path, runner: ScriptedRunner, authority: Authority, tmp_path: Path
) -> None:
    client = authority.sign("client", common_name="client")
    lists = tmp_path / "mounted.crl"
    shutil.copy(authority.revoke("none"), lists)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes()
    )
    async with (
        over_tls(model, runner, AccessConfig(tls=mutual(authority, lists))) as server,
        grpc.aio.secure_channel(server.grpc, credentials) as channel,
        asyncio.timeout(PATIENCE),
    ):
        info = channel.unary_unary("/headrace.v1.Inference/ModelInfo")
        await info(b"")
        lists.write_text("broken")
        while server.sample("headrace_reload_ok", file="crl"):
            await asyncio.sleep(0.05)
        await info(b"")
        shutil.copy(authority.revoke("one", client), lists)
        while not server.sample("headrace_reload_ok", file="crl"):
            await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError, match="was revoked"):
            await info(b"")


def test_each_authority_speaks_of_its_own(tmp_path: Path) -> None:
    """Both gave the same serial number to nobody, but a list of one must not end certificates of the other."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    both = tmp_path / "both.crt"
    both.write_bytes(ours.certificate.read_bytes() + theirs.certificate.read_bytes())
    one, other = ours.sign("one", common_name="x"), theirs.sign("other", common_name="x")
    lists = tmp_path / "both.crl"
    lists.write_bytes(ours.revoke("a", one).read_bytes() + theirs.revoke("b").read_bytes())
    revoked = load_revoked(lists, both)
    revoked.check(other.certificate.read_bytes())
    with pytest.raises(Unauthenticated, match="was revoked"):
        revoked.check(one.certificate.read_bytes())
    assert revoked.expires.keys() == {"CN=ours", "CN=theirs"}


def test_a_list_that_is_too_old_holds_and_the_log_says_so(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    bad = authority.sign("bad", common_name="bad")
    with caplog.at_level(logging.WARNING):
        revoked = load_revoked(authority.revoke("old", bad, until=timedelta(hours=-1)), authority.certificate)
    with pytest.raises(Unauthenticated):
        revoked.check(bad.certificate.read_bytes())
    assert "should have sent a new one" in caplog.text


def test_what_is_no_list_of_ours_is_refused_by_name(authority: Authority, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    torn = tmp_path / "torn"
    torn.write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----")
    nameless = tmp_path / "nameless"
    nameless.write_bytes(as_pem(as_der(authority.revoke("whole")).replace(b"\x0c\x04ours", b"\x03\x04ours")))
    forged = Authority(tmp_path, "forger").revoke("forged", name="ours")
    foreign = Authority(tmp_path, "foreign").revoke("foreign")
    for path, message in (
        (junk, "--tls-client-crl .*junk: holds no list"),
        (torn, "is no certificate revocation list"),
        (nameless, "is no certificate revocation list"),
        (tmp_path / "missing", "missing: No such file"),
        (forged, "the list of 'CN=ours' is signed by none of --tls-client-ca"),
        (foreign, "the list of 'CN=foreign' is signed by none"),
    ):
        with pytest.raises(ModelRefused, match=message):
            load_revoked(path, authority.certificate)


def as_der(path: Path) -> bytes:
    return base64.b64decode(b"".join(path.read_bytes().splitlines()[1:-1]))


def as_pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


@pytest.fixture
def whole(authority: Authority) -> Path:
    return authority.revoke("whole", authority.sign("bad", common_name="bad"))


@given(place=st.integers(0, 400), byte=st.integers(0, 255), rest=st.binary(max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_list_is_refused_and_breaks_nothing(
    authority: Authority, whole: Path, place: int, byte: int, rest: bytes
) -> None:
    body, path = as_der(whole), whole.with_name("damaged")
    place %= len(body)
    path.write_bytes(as_pem(body[:place] + bytes([byte]) + rest + body[place + 1 :]))
    found, said = None, ""
    try:
        found = load_revoked(path, authority.certificate)
    except ModelRefused as refused:
        said = str(refused)
    # What the signature leaves unused may be another: such a list says what it said.
    assert "--tls-client-crl" in said or found == load_revoked(whole, authority.certificate)
