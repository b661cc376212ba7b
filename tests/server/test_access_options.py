"""The options that say who may ask: what goes together, and what is refused before anything listens."""

import argparse
from pathlib import Path

import pytest
from headrace_server import access_options, key_command
from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.errors import ModelRefused
from headrace_server.rpc.api_keys import parse
from headrace_server.rpc.identity import Identity

KEYS, CERT, KEY, CA = Path("keys"), Path("cert.pem"), Path("key.pem"), Path("ca.pem")
TLS = ["--tls-cert=cert.pem", "--tls-key=key.pem"]


def parsed(*words: str, host: str = "127.0.0.1") -> AccessConfig:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    access_options.register(parser)
    return access_options.access_from(parser.parse_args([f"--host={host}", *words]))


@pytest.mark.parametrize(
    ("words", "config"),
    [
        pytest.param([], AccessConfig(), id="nothing"),
        pytest.param(["--api-keys=keys"], AccessConfig(KEYS), id="keys"),
        pytest.param(TLS, AccessConfig(None, TlsFiles(CERT, KEY)), id="TLS"),
        pytest.param([*TLS, "--tls-client-ca=ca.pem"], AccessConfig(None, TlsFiles(CERT, KEY, CA)), id="mutual TLS"),
        pytest.param(
            [*TLS, "--tls-client-ca=ca.pem", "--tls-client-crl=ca.crl"],
            AccessConfig(None, TlsFiles(CERT, KEY, CA, Path("ca.crl"))),
            id="mutual TLS with a list of what was revoked",
        ),
    ],
)
def test_options_become_the_config(words: list[str], config: AccessConfig) -> None:
    assert parsed(*words) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--tls-cert=cert.pem"], "--tls-key: is missing", id="a certificate without its key"),
        pytest.param(["--tls-key=key.pem"], "--tls-cert: is missing", id="a key without its certificate"),
        pytest.param(["--tls-client-ca=ca.pem"], "--tls-client-ca: needs", id="an authority without TLS"),
        pytest.param(
            [*TLS, "--tls-client-crl=ca.crl"], "--tls-client-crl: needs --tls-client-ca", id="a list of nobody"
        ),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        parsed(*words)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.0.3", "::1", "localhost"])
def test_this_machines_own_addresses_need_no_keys(host: str) -> None:
    assert not parsed(host=host).authenticates


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.7", "example.org", ""])
def test_an_address_that_others_reach_is_not_left_open_by_oversight(host: str) -> None:
    for open_to_all in ([], TLS):
        with pytest.raises(ModelRefused, match="--allow-unauthenticated"):
            parsed(*open_to_all, host=host)
        parsed(*open_to_all, "--allow-unauthenticated", host=host)
    assert parsed("--api-keys=keys", host=host).authenticates
    assert parsed(*TLS, "--tls-client-ca=ca.pem", host=host).authenticates


def key_new(*words: str) -> int:
    parser = argparse.ArgumentParser()
    key_command.register(parser)
    options = parser.parse_args(["new", *words])
    return int(options.run(options))


def test_a_new_key_is_known_by_the_line_that_is_printed_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert key_new("--tenant=team-a", "--expires=2027-01-31") == 0
    key, hashed = capsys.readouterr().out.splitlines()
    assert parse(hashed, "file").identity(key, 0.0) == Identity("team-a")
    assert hashed.endswith(" 2027-01-31T00:00:00Z")
    assert key_new("--tenant=team-a") == 0
    assert capsys.readouterr().out.splitlines()[0] != key


@pytest.mark.parametrize("words", [["--tenant=two words"], ["--tenant=a", "--expires=soon"]])
def test_no_key_is_made_for_what_the_file_could_not_hold(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert key_new(*words) == 2
    assert capsys.readouterr().out == ""
