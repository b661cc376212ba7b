"""The wheel, with the decision as machine code where HEADRACE_COMPILE=1 asks for it.

mypyc makes it of the same files, which stay in the wheel. Without the variable nothing is compiled.
Why it is no default: docs/decisions/0018-compiled-decide.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "headrace_operator"
# What every look runs through.
MODULES = (
    "buckets", "bursts", "busy", "capacity", "forecast", "history", "horizon", "intervals", "numbers", "rates",
    "replicas", "rules", "signals", "situation", "supply", "turned_away", "values", "waits", "windows",
)  # fmt: skip


class CompiledDecision(BuildHookInterface):  # type: ignore[type-arg]
    folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        return ["mypy", "setuptools"] if self._is_asked_for() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling asks before it packs; an editable install runs what lies in the checkout, and that is Python."""
        if version == "editable" or not self._is_asked_for():
            return
        self.folder = tempfile.TemporaryDirectory(prefix="headrace-compiled-")  # until the wheel is packed
        for library in compiled(Path(self.root), Path(self.folder.name)):
            build_data["force_include"][str(library)] = str(library.relative_to(self.folder.name))
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.folder is not None:
            self.folder.cleanup()

    def _is_asked_for(self) -> bool:
        return os.environ.get("HEADRACE_COMPILE") == "1"  # noqa: TID251 - a wheel's builder has no other door


def compiled(project: Path, folder: Path) -> list[Path]:
    """The libraries, in `folder` at the places where they are imported from. Needs mypy and a C compiler."""
    shutil.copytree(project / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    files = [f"{PACKAGE}/decide/{name}.py" for name in MODULES]
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", *files], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            "HEADRACE_COMPILE=1 needs mypy, setuptools and a C compiler to make machine code of the decision; "
            f"mypyc ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return [*folder.glob("*.so"), *(folder / PACKAGE).rglob("*.so")]
