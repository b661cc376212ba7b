"""Weights that come into the page cache before anybody loads them."""

import os
import time
from pathlib import Path

import pytest
from headrace_server.read_ahead import PIECE, pieces, read_ahead, spare_memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000 kB\nMemAvailable:    8000000 kB\n"


def cached(path: Path) -> bool:
    """Whether its last bytes can be had without waiting for a disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(file, [bytearray(4096)], path.stat().st_size - 4096, os.RWF_NOWAIT) == 4096
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def evict(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def test_files_on_a_disk_are_in_memory_soon_after(tmp_path: Path) -> None:
    files = [tmp_path / f"model-{number}.safetensors" for number in range(2)]
    for path in files:
        path.write_bytes(os.urandom(2**22))
        evict(path)
    read_ahead(tmp_path).join()
    deadline = time.monotonic() + 300
    while not all(map(cached, files)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(cached, files))


@pytest.mark.parametrize("model", ["nothing here", "/proc/1/environ"])
def test_what_cannot_be_read_is_no_fault_of_the_start(tmp_path: Path, model: str) -> None:
    read_ahead(tmp_path / model).join()


def test_no_more_is_read_than_memory_holds() -> None:
    files = [(Path("a"), PIECE + 5), (Path("b"), 7), (Path("c"), 100)]
    everything = [("a", 0, PIECE), ("a", PIECE, 5), ("b", 0, 7), ("c", 0, 100)]
    assert [(str(path), *place) for path, *place in pieces(files, 10**12)] == everything
    assert [(str(path), *place) for path, *place in pieces(files, PIECE + 8)] == [*everything[:2], ("b", 0, 3)]
    assert list(pieces(files, 0)) == []


@pytest.mark.parametrize(
    ("limit", "used", "spare"),
    [
        pytest.param(None, None, 8_192_000_000, id="no container"),
        pytest.param("max\n", "5\n", 8_192_000_000, id="one without a limit"),
        pytest.param("3000\n", "1000\n", 2000, id="one with a limit"),
        pytest.param("1000\n", "3000\n", 0, id="a full one"),
    ],
)
def test_memory_is_that_of_the_container(limit: str | None, used: str | None, spare: int) -> None:
    assert spare_memory(MEMINFO, limit, used) == spare
