"""prometheus and promtool: those on the PATH, else Debian's, unpacked into the user's cache.

Building them from Go modules would take many minutes.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.apt import Apt
from cluster.binaries import cache_folder
from cluster.once import Report, once

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
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=120)
    told = re.search(r"version (\d+)\.(\d+)", answer.stdout + answer.stderr)
    return (int(told[1]), int(told[2])) if told else (0, 0)


def _from_debian(report: Report, env: Mapping[str, str]) -> Prometheus:
    place = cache_folder(env) / "binaries" / f"prometheus-debian-{platform.machine()}"

    def unpack(unfinished: Path) -> None:
        report(f"Taking prometheus and promtool from Debian's archive, once: they stay in {place}")
        with TemporaryDirectory(dir=unfinished.parent) as folder:
            apt = Apt(Path(folder), env, REMEDY)
            apt.update()
            apt.unpack(["prometheus"], unfinished)

    programs = once(place, unpack, report) / "usr" / "bin"
    return Prometheus(programs / "prometheus", programs / "promtool")
