"""What must hold of the tree itself."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_no_package_shadows_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would break `import operator` for everyone in the root"


def test_requirements_are_pinned_by_hash_and_name_no_index() -> None:
    locked = [*(ROOT / "requirements").glob("*.txt"), ROOT / "tests" / "cluster" / "go" / "toolchain.txt"]
    assert len(locked) >= 6
    for file in locked:
        text = file.read_text()
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), file
        pinned = re.findall(r"^[A-Za-z0-9._-]+(?:\[[^\]]*\])?==", text, re.MULTILINE)
        assert pinned, file
        assert text.count("--hash=sha256:") >= len(pinned), file


def test_every_place_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)+(?:[\w.-]+)?)`", (ROOT / "README.md").read_text())
    assert {"operator/", "bench/engine.py"} <= set(named)
    for name in named:
        place = ROOT / name
        assert place.is_dir() if name.endswith("/") else place.is_file(), name


def test_the_readme_fits_a_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_every_copy_source_of_the_dockerfile_exists() -> None:
    copies = re.findall(r"^COPY (?!--from)(\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert copies
    for source in copies:
        assert (ROOT / source).exists(), source


def test_no_weights_but_safetensors_are_committed() -> None:
    assert not [file for file in tracked() if file.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]
