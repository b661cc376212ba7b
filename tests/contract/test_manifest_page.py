"""docs/manifest.md has every field of the schema, with its default, and none that is gone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(spec\.[^`]+)` \| (?P<default>[^|]+) \| (?P<effect>[^|]+) \| (?P<refused>[^|]+) \|$", re.MULTILINE
)


def fields(schema: dict[str, Any], path: str, *, required: bool = False) -> Iterator[tuple[str, str]]:
    """Path and default of everything that a manifest can say, as the page writes them."""
    inner = schema.get("items", schema)
    if schema["type"] != "object" or "properties" not in schema:
        yield path, "required" if required else written(schema)
    for name, field in inner.get("properties", {}).items():
        below = f"{path}[].{name}" if schema["type"] == "array" else f"{path}.{name}"
        yield from fields(field, below, required=name in inner.get("required", []))


def written(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return "–"
    default = schema["default"]
    is_a_word = isinstance(default, str) and not re.fullmatch(r"[0-9.]+", default)
    return f"`{default if is_a_word else json.dumps(default)}`"


def in_schema() -> dict[str, str]:
    crd = yaml.safe_load((ROOT / "crds" / "inferencedeployments.headrace.dev.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    return dict(fields(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"))


def on_page() -> dict[str, str]:
    rows = ROW.finditer((ROOT / "docs" / "manifest.md").read_text())
    return {row[1]: row["default"] for row in rows}


def test_the_page_has_the_fields_of_the_schema_with_their_defaults() -> None:
    assert on_page() == in_schema()


@pytest.mark.parametrize(
    "field", ["spec.model.source", "spec.pod.env[].name", "spec.rollout.canary.limits.qualityLoss"]
)
def test_the_walk_over_the_schema_reaches_every_depth(field: str) -> None:
    assert field in in_schema()


def described(schema: dict[str, Any], path: str) -> Iterator[tuple[str, bool]]:
    for name, field in schema.get("items", schema).get("properties", {}).items():
        yield f"{path}.{name}", bool(field.get("description")) and "type" in field
        yield from described(field, f"{path}.{name}")


def test_every_field_of_the_spec_has_a_type_and_says_what_it_does() -> None:
    """`kubectl explain` prints it."""
    crd = yaml.safe_load((ROOT / "crds" / "inferencedeployments.headrace.dev.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert [path for path, is_described in described(spec, "spec") if not is_described] == []
