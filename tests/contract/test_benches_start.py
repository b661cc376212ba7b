"""Every bench that starts a server finds what it needs by itself: outside of pytest less is on its path."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
STARTING = sorted(path.name for path in BENCH.glob("*.py") if "from served_process import" in path.read_text())


@pytest.mark.parametrize("bench", STARTING)
def test_it_tells_what_it_does(bench: str) -> None:
    done = subprocess.run([sys.executable, BENCH / bench, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_there_are_some() -> None:
    assert "scheduling.py" in STARTING
