"""The training text: the King James Bible, in the public domain, from Debian's package `bible-kjv-text`.

`bible` (package `bible-kjv`) unpacks the text from the package's own compressed format. A document is a chapter, its
verses one a line. Every 40th chapter is held out: never trained on, and shipped as the golden set.
"""

import hashlib
import subprocess
from pathlib import Path

# Name, version, sha256 of the packages that the shipped models were trained from.
PACKAGES = {
    "bible-kjv-text": ("4.38", "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a"),
    "bible-kjv": ("4.38", "75a49c032a6efa9faa2beb4a9acb70974380122906329d0e100de36cc88ff02d"),
}
HELD_OUT_EVERY = 40


def chapters(cache: Path) -> list[str]:
    """All 1189 chapters in order, fetched with apt-get into `cache` if they are not there."""
    return _chapters(_verses(_unpacked(cache)))


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """(training chapters, held-out chapters)."""
    held_out = documents[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    return [text for text in documents if text not in held_out], held_out


def _unpacked(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    for name, (version, sha256) in PACKAGES.items():
        if not list(cache.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=cache, check=True)
        package = next(iter(cache.glob(f"{name}_*.deb")))
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if name == "bible-kjv-text" and found != sha256:  # the other one differs by architecture
            raise SystemExit(f"{package.name} has sha256 {found}, the models were trained from {sha256}")
        subprocess.run(["dpkg", "-x", package.name, "unpacked"], cwd=cache, check=True)
    return cache / "unpacked" / "usr"


def _verses(usr: Path) -> list[str]:
    """One line a verse: `Ge1:1 In the beginning ...`."""
    command = [usr / "bin" / "bible", "-f", "gen1:1-rev22:21"]
    answer = subprocess.run(
        command, cwd=usr / "lib", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return answer.stdout.splitlines()


def _chapters(verses: list[str]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for line in verses:
        reference, _, text = line.partition(" ")
        lines.setdefault(reference.partition(":")[0], []).append(text.strip())
    return ["\n".join(chapter) for chapter in lines.values()]
