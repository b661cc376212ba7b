"""Where the browser of the tests comes from, and what somebody reads who has none."""

from pathlib import Path

import pytest
from cluster.apt import PLANNED
from cluster.browser import GIVEN, ensure
from cluster.toolchain import BuildFailed


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


def silent(_: str) -> None:
    pass


def test_one_that_is_named_is_taken(tmp_path: Path) -> None:
    given = program(tmp_path, "mine", "Chromium 156.0.8078.79")
    assert ensure(silent, {GIVEN: str(given), "PATH": "/usr/bin:/bin"}).program == given


@pytest.mark.parametrize("says", ["Chromium 99.0.1.2", "nothing of the kind"])
def test_one_that_is_named_and_too_old_is_refused(tmp_path: Path, says: str) -> None:
    given = program(tmp_path, "mine", says)
    with pytest.raises(BuildFailed, match=r"\$HEADRACE_CHROMIUM: .*older than 120"):
        ensure(silent, {GIVEN: str(given), "PATH": "/usr/bin:/bin"})


def test_the_machines_own_is_taken_where_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "bin"
    there = program(path, "chromium", "Chromium 130.0.1.2 built on Debian")
    env = {"PATH": f"{path}:/usr/bin:/bin", "HEADRACE_CACHE": str(tmp_path / "cache")}
    assert ensure(silent, env).program == there


def test_without_debian_the_remedy_is_named(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path / "nothing"), "HEADRACE_CACHE": str(tmp_path / "cache")}
    with pytest.raises(BuildFailed, match=r"install Chromium 120 or newer, or name one in \$HEADRACE_CHROMIUM"):
        ensure(silent, env)
    assert not list((tmp_path / "cache").rglob("root")), "nothing half-made stays"


def test_apts_plan_is_read_with_and_without_an_older_version() -> None:
    plan = """
NOTE: This is only a simulation!
Inst libogg0 (1.3.5-3 Debian:12/oldstable [amd64])
Inst libnss3 [2:3.87-1] (2:3.87.1-1+deb12u1 Debian-Security:12/oldstable-security [amd64])
Conf libogg0 (1.3.5-3 Debian:12/oldstable [amd64])
"""
    assert PLANNED.findall(plan) == [("libogg0", "1.3.5-3"), ("libnss3", "2:3.87.1-1+deb12u1")]


def test_a_page_is_drawn_by_what_prepare_found(tmp_path: Path) -> None:
    """With letters: without a font, everything else would look right."""
    from browsing import chromium, tab

    with chromium() as started, tab(started) as opened:
        opened.page.set_content("<body style='margin:0'><h1>MMMM</h1>")
        with_letters = opened.shoot(tmp_path / "letters.png")
        opened.page.set_content("<body style='margin:0'><h1></h1>")
        assert len(with_letters) > len(opened.shoot(tmp_path / "none.png"))
