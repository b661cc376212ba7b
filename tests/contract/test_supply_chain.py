"""What the images hold, told by a bill of materials; and who says so when it cannot be told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "server", "router")
PROGRAM = ROOT / "requirements" / "sbom.py"
# Nothing that asks users of the image to open their own code. What is new is read by somebody, then added.
LICENCES = {
    "0BSD", "Apache", "BSD", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception", "LicenseRef-NVIDIA-Proprietary", "MIT",
    "MPL-2.0", "Mozilla", "PSF-2.0", "Python-2.0", "Zlib", "Unlicense",
}  # fmt: skip


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sbom")
    command = [sys.executable, PROGRAM, *IMAGES, "--into", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {image: json.loads((folder / f"headrace-{image}.cdx.json").read_text()) for image in IMAGES}


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_of_an_image_is_told_with_its_licence_and_the_hashes_of_its_files(
    bills: dict[str, dict[str, Any]], image: str
) -> None:
    made = bills[image]
    assert made["metadata"]["component"]["name"] == f"headrace-{image}"
    names = {component["name"].lower() for component in made["components"]}
    assert ("torch" in names) == (image == "server")
    locked = (ROOT / "requirements" / f"{image}.txt").read_text()
    for component in made["components"]:
        hashes = {h["content"] for r in component["externalReferences"] for h in r.get("hashes", [])}
        assert hashes, component["name"]
        assert all(f"sha256:{digest}" in locked for digest in hashes)
        assert component["licenses"]
        for licence in component["licenses"]:
            words = json.dumps(licence)
            assert any(known in words for known in LICENCES), (component["name"], words)
            assert "GPL" not in words.replace("LGPL-exception", ""), (component["name"], words)


def test_a_bill_is_what_cyclonedx_allows(bills: dict[str, dict[str, Any]]) -> None:
    folder = Path(cyclonedx.schema.__file__).parent / "_res"

    def schema(name: str) -> tuple[str, Any]:
        file = f"{name}.SNAPSHOT.schema.json"
        return f"http://cyclonedx.org/schema/{file}", json.loads((folder / file).read_text())

    others = jsonschema_rs.Registry([schema("spdx"), schema("jsf-0.82")])
    validator = jsonschema_rs.validator_for(schema("bom-1.6")[1], registry=others)
    for made in bills.values():
        assert [str(error) for error in validator.iter_errors(made)] == []
        assert not validator.is_valid({**made, "components": [{"name": "nameless"}]})


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_is_there_because_of_another(bills: dict[str, dict[str, Any]], image: str) -> None:
    made = bills[image]
    needs = {each["ref"]: each.get("dependsOn", []) for each in made["dependencies"]}
    reached, new = set(), [made["metadata"]["component"]["bom-ref"]]
    while new:
        reached.add(new[-1])
        new = [*new[:-1], *(ref for ref in needs[new[-1]] if ref not in reached)]
    unneeded = {component["bom-ref"] for component in made["components"]} - reached
    assert not unneeded


def test_a_bill_that_would_be_wrong_is_refused(tmp_path: Path) -> None:
    """An environment that is not the one that the requirement files pin."""
    program = tmp_path / "requirements" / "sbom.py"
    program.parent.mkdir()
    program.write_text(PROGRAM.read_text())
    for name in IMAGES:
        (tmp_path / name).symlink_to(ROOT / name)
    (program.parent / "operator.txt").write_text("kopf==0.1 \\\n    --hash=sha256:00\n")
    command = [sys.executable, program, "operator", "--into", tmp_path / "sbom"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "kopf 0.1 is pinned, and" in done.stderr
    assert "make setup" in done.stderr
    assert not list((tmp_path / "sbom").iterdir())
