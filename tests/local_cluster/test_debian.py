"""Where prometheus and promtool come from. Small scripts stand in for them, and for apt where it cannot help."""

from pathlib import Path

import pytest
from cluster import debian
from cluster.toolchain import BuildFailed

SYSTEM = "/usr/bin:/bin"


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def environment(root: Path, path: str) -> dict[str, str]:
    return {"PATH": path, "HEADRACE_CACHE": str(root / "cache"), "HOME": str(root)}


def test_those_on_the_path_are_taken(tmp_path: Path) -> None:
    for name in ("prometheus", "promtool"):
        program(tmp_path / "bin", name, f'echo "{name}, version 3.5.0 (branch: HEAD)"')
    found = debian.ensure(print, environment(tmp_path, f"{tmp_path / 'bin'}:{SYSTEM}"))
    assert found.promtool == tmp_path / "bin" / "promtool"
    assert not (tmp_path / "cache").exists()


def test_what_is_too_old_or_alone_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "bin", "prometheus", 'echo "prometheus, version 3.5.0"')
    program(tmp_path / "bin", "promtool", 'echo "promtool, version 2.15.2"')
    program(tmp_path / "bin", "apt-get", "echo no archive can be reached >&2; exit 100")
    with pytest.raises(BuildFailed, match=r"put prometheus and promtool 2\.42 or newer on the PATH(.|\n)*no archive"):
        debian.ensure(print, environment(tmp_path, f"{tmp_path / 'bin'}:{SYSTEM}"))
    assert not list((tmp_path / "cache").rglob("promtool")), "nothing half-made stays"


def test_another_system_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="no apt-get and no dpkg-deb here: put prometheus and promtool"):
        debian.ensure(print, environment(tmp_path, str(tmp_path)))


def test_they_run() -> None:
    found = debian.ensure(print)
    assert debian._version(str(found.prometheus)) >= debian.OLDEST
    assert debian._version(str(found.promtool)) >= debian.OLDEST
