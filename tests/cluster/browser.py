"""A headless Chromium for the tests of pages: the machine's, else Debian's, unpacked into the user's cache."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.apt import Apt
from cluster.binaries import cache_folder
from cluster.once import Report, once
from cluster.toolchain import BuildFailed

GIVEN = "HEADRACE_CHROMIUM"  # names a program
ON_PATH = ("chromium", "google-chrome-stable", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")  # without a font, a page has no text
OLDEST = 120  # major version that the pages and the tests' driver were tried with, and newer
REMEDY = f"install Chromium {OLDEST} or newer, or name one in ${GIVEN}"


@dataclass(frozen=True, slots=True)
class Browser:
    program: Path
    env: Mapping[str, str]  # what it needs beside the usual


def ensure(report: Report, env: Mapping[str, str] = os.environ) -> Browser:  # noqa: TID251 - the edge that finds tools
    """Raises BuildFailed with what to do about it."""
    if given := env.get(GIVEN):
        if not _fits(given, env):
            raise BuildFailed(f"${GIVEN}: {given} does not run, or is older than {OLDEST}")
        return Browser(Path(given), {})
    place = cache_folder(env) / "binaries" / f"chromium-{platform.machine()}"
    if not place.exists():
        found = next((there for name in ON_PATH if (there := shutil.which(name, path=env.get("PATH")))), None)
        if found and _fits(found, env):
            return Browser(Path(found), {})
    return _unpacked(once(place, lambda unfinished: _fetch(unfinished, place, env, report), report))


def _fits(program: str, env: Mapping[str, str]) -> bool:
    try:
        asked = [program, "--version"]
        answer = subprocess.run(asked, env=dict(env), capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):  # not executable, or hanging: does not fit
        return False
    told = re.search(r"\b(\d+)\.\d+\.", answer.stdout)
    return told is not None and int(told[1]) >= OLDEST


def _unpacked(place: Path) -> Browser:
    folders = [folder for lib in place.glob("root/usr/lib/*-linux-gnu*") for folder in (lib, *_with_libraries(lib))]
    env = {"LD_LIBRARY_PATH": ":".join(map(str, folders)), "FONTCONFIG_FILE": str(place / "fonts.conf")}
    return Browser(place / "root/usr/lib/chromium/chromium", env)


def _with_libraries(lib: Path) -> Iterable[Path]:
    return (folder for folder in sorted(lib.iterdir()) if folder.is_dir() and any(folder.glob("*.so*")))


def _fetch(unfinished: Path, place: Path, env: Mapping[str, str], report: Report) -> None:
    """`place`: where it will lie in the end, for what has to name it."""
    root = unfinished / "root"
    root.mkdir(parents=True)
    with TemporaryDirectory(dir=unfinished) as folder:
        apt = Apt(Path(folder), env, REMEDY)
        report(f"Fetching Chromium and what it needs from Debian's packages, once: they stay in {place}, 0.5 GB")
        apt.update()
        packages = apt.with_what_they_need(PACKAGES)
        if not packages:
            raise BuildFailed(f"apt has Chromium installed already, and it does not run: {REMEDY}")
        apt.unpack(packages, root)
    (unfinished / "packages.txt").write_text("\n".join(packages) + "\n")
    (unfinished / "fonts.conf").write_text(_fonts(place))
    if not (root / "usr/lib/chromium/chromium").exists():
        raise BuildFailed(f"the packages of this system hold no Chromium: {REMEDY}")


def _fonts(place: Path) -> str:
    folders = "".join(f"<dir>{folder}</dir>" for folder in (place / "root/usr/share/fonts", "/usr/share/fonts"))
    head = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">'
    return f"{head}<fontconfig>{folders}<cachedir>{place / 'font-cache'}</cachedir></fontconfig>\n"
