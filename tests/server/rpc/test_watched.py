"""Files that change under a running server."""

import os
from pathlib import Path

import pytest
from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.watched import FileKind, Watched
from prometheus_client import CollectorRegistry


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def watched(path: Path, registry: CollectorRegistry) -> Watched[int]:
    def load() -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError) as error:
            raise ModelRefused(str(error)) from error

    return Watched(FileKind.API_KEYS, [path], load, ServerMetrics(registry))


def reloads(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("headrace_reloads_total", {"file": "api_keys", "outcome": outcome}) or 0.0


def is_ok(registry: CollectorRegistry) -> bool:
    return registry.get_sample_value("headrace_reload_ok", {"file": "api_keys"}) == 1


def test_a_change_is_read_once(tmp_path: Path, registry: CollectorRegistry) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    number = watched(file, registry)
    file.write_text("22")
    number.look()
    number.look()
    assert number.value == 22
    assert reloads(registry, "done") == 1


def test_what_makes_no_sense_changes_nothing_and_is_said_once(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    number = watched(file, registry)
    file.write_text("broken")
    number.look()
    number.look()
    assert number.value == 1
    assert not is_ok(registry)
    assert reloads(registry, "refused") == 1
    assert len([record for record in caplog.records if "still holds" in record.message]) == 1
    file.unlink()
    number.look()
    assert number.value == 1
    file.write_text("3")
    number.look()
    assert number.value == 3
    assert is_ok(registry)


def test_the_files_that_made_sense_may_come_back(tmp_path: Path, registry: CollectorRegistry) -> None:
    file, aside = tmp_path / "number", tmp_path / "aside"
    file.write_text("1")
    number = watched(file, registry)
    file.rename(aside)
    file.write_text("broken")
    number.look()
    assert not is_ok(registry)
    aside.rename(file)
    number.look()
    assert number.value == 1
    assert is_ok(registry)


def test_a_kubelets_swap_of_a_mounted_secret_is_seen(tmp_path: Path, registry: CollectorRegistry) -> None:
    """keys -> ..data/keys, ..data -> ..1: the kubelet renames a new link over ..data, far above the file."""
    for name, text in (("..1", "1"), ("..2", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "number").write_text(text)
        os.utime(tmp_path / name / "number", (0, 0))  # of one age and size: only the file is another
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "number").symlink_to("..data/number")
    number = watched(tmp_path / "number", registry)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    number.look()
    assert number.value == 2


def test_a_server_does_not_start_with_what_makes_no_sense(tmp_path: Path, registry: CollectorRegistry) -> None:
    with pytest.raises(ModelRefused):
        watched(tmp_path / "missing", registry)


def test_a_fault_that_nobody_foresaw_is_told_and_does_not_end_the_watch(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "number"
    file.write_text("1")

    def load() -> int:
        text = file.read_text()
        return int(text) if text else len(text) // 0

    number = Watched(FileKind.API_KEYS, [file], load, ServerMetrics(registry))
    file.write_text("")
    number.look()
    assert number.value == 1
    assert not is_ok(registry)
    [told] = [record for record in caplog.records if "still holds" in record.message]
    assert told.exc_info is not None, "with where it happened"
    file.write_text("22")
    number.look()
    assert number.value == 22
    assert is_ok(registry)
