"""A CycloneDX bill of materials for each image: `make sbom`.

What is in an image is what its requirement file pins for Linux; licences and dependencies come from the packages
themselves, so they must be installed here (`make setup`); the hashes are those that an install is held to.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[1]
Body = dict[str, Any]
# Their metadata names no licence; read in the package, or where its page says so.
UNSAID = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # an empty package that names others
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
    "protobuf": "BSD-3-Clause",
}


class Unaccounted(Exception):
    """A package of an image that this environment cannot tell about; the message says what to do."""


def pins(image: str) -> Iterator[tuple[NormalizedName, str, list[str]]]:
    """(name, version, sha256 of every file that may be installed) of what the image holds on this machine."""
    text = (ROOT / "requirements" / f"{image}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        words, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        requirement = Requirement(words)
        if requirement.marker is None or requirement.marker.evaluate():
            (version,) = requirement.specifier
            yield canonicalize_name(requirement.name), version.version, hashes


def environment(python: str) -> Body:
    """Everything that is installed, as cyclonedx-py sees it. Without times and random names.

    It is not validated here: that takes 20 s, and a test does it in a tenth.
    """
    command = [
        python,
        "-m",
        "cyclonedx_py",
        "environment",
        python,
        "--output-reproducible",
        "--no-validate",
        "--spec-version=1.6",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Body = json.loads(done.stdout)
    return found


def bill(image: str, installed: Body) -> Body:
    """The part of `installed` that the image holds. Raises Unaccounted."""
    by_name = {canonicalize_name(component["name"]): component for component in installed["components"]}
    components = [_component(by_name.get(name), name, version, hashes) for name, version, hashes in pins(image)]
    project = tomllib.loads((ROOT / image / "pyproject.toml").read_text())["project"]
    own = {
        "bom-ref": f"headrace-{image}",
        "type": "application",
        "name": project["name"],
        "version": project["version"],
        "licenses": [{"expression": project["license"]}],
    }
    held = {component["bom-ref"] for component in components}
    direct = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    first = sorted(c["bom-ref"] for c in components if canonicalize_name(c["name"]) in direct)
    return {
        **installed,
        "metadata": {**installed["metadata"], "component": own},
        "components": components,
        "dependencies": [{"ref": own["bom-ref"], "dependsOn": first}, *_among(installed["dependencies"], held)],
    }


def _component(found: Body | None, name: str, version: str, hashes: list[str]) -> Body:
    if found is None or found["version"] != version:
        is_there = f"{found['version']} is installed" if found else "it is not installed"
        raise Unaccounted(f"{name} {version} is pinned, and {is_there}: run `make setup` first")
    licences = (
        found.get("licenses") or [{"license": {"name": UNSAID[name]}}] if name in UNSAID else found.get("licenses")
    )
    if not licences:
        raise Unaccounted(f"{name} {version} names no licence: read it, and add it to UNSAID in requirements/sbom.py")
    files = [
        {"type": "distribution", "url": f"pkg:pypi/{name}@{version}", "hashes": [{"alg": "SHA-256", "content": digest}]}
        for digest in hashes
    ]
    return {**found, "licenses": licences, "externalReferences": [*found.get("externalReferences", []), *files]}


def _among(dependencies: list[Body], held: set[str]) -> Iterator[Body]:
    for each in dependencies:
        if each["ref"] in held:
            needs = [ref for ref in each.get("dependsOn", []) if ref in held]
            yield {"ref": each["ref"], "dependsOn": needs} if needs else {"ref": each["ref"]}


def licences(made: Body) -> Counter[str]:
    """How many packages name which licence."""
    return Counter(" AND ".join(sorted(map(_words, each["licenses"]))) for each in made["components"])


def _words(choice: Body) -> str:
    """An expression, an SPDX identifier, or what else the package says; a classifier without its path."""
    licence = choice.get("license", {})
    words: str = choice.get("expression") or licence.get("id") or licence["name"]
    return words.rpartition(" :: ")[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", choices=["operator", "server", "router"])
    parser.add_argument("--into", type=Path, required=True, help="folder, made where it is missing")
    options = parser.parse_args()
    installed = environment(sys.executable)
    options.into.mkdir(parents=True, exist_ok=True)
    for image in options.images:
        try:
            made = bill(image, installed)
        except Unaccounted as error:
            parser.exit(1, f"{image}: {error}\n")
        file = options.into / f"headrace-{image}.cdx.json"
        file.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
        sys.stdout.write(f"{file}: {len(made['components'])} packages\n")
        for licence, packages in licences(made).most_common():
            sys.stdout.write(f"  {packages:3} {licence}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
