"""prometheus and promtool: those on the PATH, else Debian's, unpacked into the user's cache.

Nothing is installed, no service starts, and root is not needed. apt checks the archive's signature, so that whatever
version the archive has now may be taken; building them from Go modules would take many minutes.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import cache_folder
from cluster.once import Report, once
from cluster.toolchain import BuildFailed

OLDEST = (2, 42)  # of Debian 12
REMEDY = (
    f"put prometheus and promtool {'.'.join(map(str, OLDEST))} or newer on the PATH, or let apt-get reach an archive "
    "of Debian or Ubuntu"
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Where each program lies."""

    prometheus: Path
    promtool: Path


def ensure(report: Report, env: Mapping[str, str] = os.environ) -> Prometheus:  # noqa: TID251 - the edge that finds tools
    """Both programs. Raises BuildFailed with what to do about it."""
    return _on_path(env) or _from_debian(report, env)


def _on_path(env: Mapping[str, str]) -> Prometheus | None:
    found = [shutil.which(name, path=env.get("PATH")) for name in ("prometheus", "promtool")]
    fitting = [Path(place) for place in found if place and _version(place) >= OLDEST]
    return Prometheus(*fitting) if len(fitting) == len(found) else None


def _version(program: str) -> tuple[int, int]:
    """(0, 0) for one that does not say."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    told = re.search(r"version (\d+)\.(\d+)", answer.stdout + answer.stderr)
    return (int(told[1]), int(told[2])) if told else (0, 0)


def _from_debian(report: Report, env: Mapping[str, str]) -> Prometheus:
    if missing := [name for name in ("apt-get", "dpkg-deb") if shutil.which(name, path=env.get("PATH")) is None]:
        raise BuildFailed(f"no {' and no '.join(missing)} here: {REMEDY}")
    place = cache_folder(env) / "binaries" / f"prometheus-debian-{platform.machine()}"

    def unpack(unfinished: Path) -> None:
        report(f"Taking prometheus and promtool from Debian's archive, once: they stay in {place}")
        _download(unfinished.parent, env)
        (package,) = unfinished.parent.glob("prometheus_*.deb")
        _run(["dpkg-deb", "--extract", str(package), str(unfinished)], unfinished.parent, env)

    programs = once(place, unpack, report) / "usr" / "bin"
    return Prometheus(programs / "prometheus", programs / "promtool")


def _download(folder: Path, env: Mapping[str, str]) -> None:
    """With lists of its own: the machine's may be missing, or too old to find a file, and belong to root."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    own = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "root",  # root's apt would otherwise write as _apt, who may not write here
        "Acquire::Languages": "none",  # descriptions of packages
    }
    options = [f"--option={name}={value}" for name, value in own.items()]
    _run(["apt-get", "update", "--quiet", *options], folder, env)
    _run(["apt-get", "download", "--quiet", *options, "prometheus"], folder, env)


def _run(command: list[str], folder: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"`{command[0]} {command[1]}` failed: {REMEDY}\n{done.stdout}{done.stderr}")
