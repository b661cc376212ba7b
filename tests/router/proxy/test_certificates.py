"""The router's files for TLS: what changed is taken, what makes no sense is said once, and the old one holds."""

import json
import logging
from pathlib import Path

import pytest
from certificates import Authority
from headrace_router.errors import BadArguments
from headrace_router.proxy.certificates import Certificates


def version(certificates: Certificates) -> str:
    """Of the certificate that Envoy is told to show."""
    assert certificates.own_file is not None
    told: dict[str, str] = json.loads(certificates.own_file.read_text())
    return told["version_info"]


def test_a_file_that_is_gone_is_said_once_and_taken_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Authority(tmp_path).sign("router", "router.default.svc")
    (folder := tmp_path / "envoy").mkdir()
    certificates = Certificates((pair.certificate, pair.key), {}, folder)
    before = version(certificates)
    away = pair.key.rename(tmp_path / "away")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            certificates.look()
    (said,) = caplog.messages
    assert f"what was read before holds on: --tls-key {pair.key} cannot be read: No such file" in said
    assert version(certificates) == before
    away.rename(pair.key)
    certificates.look()
    assert version(certificates) != before


def test_a_key_with_a_passphrase_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """Nobody is asked for it: a router that starts in a terminal does not wait there."""
    pair = Authority(tmp_path).sign("router", "router.default.svc", passphrase=b"secret")
    with pytest.raises(BadArguments, match=f"--tls-key {pair.key} is encrypted.*plain PEM"):
        Certificates((pair.certificate, pair.key), {}, tmp_path)
