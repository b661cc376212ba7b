"""Programs of Debian's packages without installing them: apt-get fetches and verifies, dpkg-deb unpacks.

Nobody needs to be root, and no service starts. apt checks the archive's signature, so that whatever version the archive
has now may be taken.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.toolchain import BuildFailed

PLANNED = re.compile(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)", re.MULTILINE)  # package, version


@dataclass(frozen=True, slots=True)
class Apt:
    """Its lists, packages and locks are its own: the machine's may be missing or too old, belong to root, and stay as
    they are. Every method raises BuildFailed with the remedy."""

    folder: Path
    env: Mapping[str, str]
    remedy: str  # for who has no Debian, or no way to its archive

    def update(self) -> None:
        """To be called first."""
        missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name, path=self.env.get("PATH")) is None]
        if missing:
            raise BuildFailed(f"no {' and no '.join(missing)} here: {self.remedy}")
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True)
        self._get("update")

    def with_what_they_need(self, packages: Iterable[str]) -> list[str]:
        """`name=version` of each package that this system lacks; empty when it has them all."""
        plan = self._get("install", "--simulate", "--no-install-recommends", *packages)
        return [f"{name}={version}" for name, version in PLANNED.findall(plan)]

    def unpack(self, packages: Iterable[str], root: Path) -> None:
        self._get("download", *packages)
        for package in sorted(self.folder.glob("*.deb")):
            self._run(["dpkg-deb", "--extract", str(package), str(root)])

    def _get(self, *words: str) -> str:
        options = {
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",  # root's apt would otherwise write as a user who may not write here
            "Acquire::Retries": "8",
            "Acquire::Languages": "none",  # descriptions of packages
        }
        given = [f"--option={name}={value}" for name, value in options.items()]
        return self._run(["apt-get", "--quiet", "--yes", *given, *words])

    def _run(self, command: list[str]) -> str:
        settled = {**self.env, "LC_ALL": "C"}  # the plan is read
        done = subprocess.run(command, env=settled, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = "\n".join(done.stderr.splitlines()[-10:])
            raise BuildFailed(f"`{' '.join(command)}` failed; {self.remedy}:\n{said}")
        return done.stdout
