"""An alert hears of a certificate's end before it comes, also of one that was renewed while the server ran."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import Authority
from headrace_server.config import AccessConfig, TlsFiles
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.access import access
from headrace_server.rpc.certificate_end import first_end
from prometheus_client import CollectorRegistry

SOON, LATER = timedelta(days=3), timedelta(days=90)


def told(registry: CollectorRegistry, file: str) -> float | None:
    return registry.get_sample_value("headrace_certificate_expires_timestamp_seconds", {"file": file})


def test_the_end_is_told_and_told_anew_after_a_renewal(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    first, second = (authority.sign(name, "127.0.0.1", until=end) for name, end in (("first", SOON), ("second", LATER)))
    registry = CollectorRegistry()
    files = TlsFiles(first.certificate, first.key, authority.certificate)
    made = access(AccessConfig(tls=files), ServerMetrics(registry), lambda: 0.0)
    now = datetime.now(UTC).timestamp()  # noqa: TID251 - certificates end by the wall clock
    assert told(registry, "certificate") == pytest.approx(now + SOON.total_seconds(), abs=120)
    assert told(registry, "client_ca") == first_end(authority.certificate)

    shutil.copy(second.key, first.key)
    shutil.copy(second.certificate, first.certificate)
    for watched in made.watched:
        watched.look()
    assert told(registry, "certificate") == pytest.approx(now + LATER.total_seconds(), abs=120)


def test_of_several_the_first_to_end_counts(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    chain = tmp_path / "chain.pem"
    pairs = [authority.sign(f"{end.days}", "127.0.0.1", until=end) for end in (LATER, SOON)]
    chain.write_bytes(b"".join(pair.certificate.read_bytes() for pair in pairs))
    assert first_end(chain) == first_end(pairs[1].certificate)


def test_what_cannot_be_read_has_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "odd.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert first_end(tmp_path / "odd.pem") is None
    assert "nobody can be warned of its end" in caplog.text


def test_without_tls_nothing_is_told() -> None:
    registry = CollectorRegistry()
    access(AccessConfig(), ServerMetrics(registry), lambda: 0.0)
    assert told(registry, "certificate") is None
