"""Writes docs/crd.md from the schema: every field of spec and status, as `kubectl explain` has them, with all rules.

Run `make generate` after a change of the schema; a test holds the page to it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "crds" / "inferencedeployments.headrace.dev.yaml"
PAGE = ROOT / "docs" / "crd.md"
Schema = dict[str, Any]
BOUNDS = (
    ("minimum", "at least {}"), ("maximum", "at most {}"), ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"), ("minItems", "at least {} items"), ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} entries"), ("pattern", "matches `{}`"), ("format", "{}"),
)  # fmt: skip
HEAD = """# Every field of an InferenceDeployment

Made from the schema that the API server holds manifests to (`make generate`). The [manifest](manifest.md) is the guide:
what each field is for, and what is refused in which words. `kubectl explain infdep.spec.autoscaling` shows the same in
a terminal.

`{api}`, kind `{kind}`, short name `{short}`, {scope}. Subresources: {subresources}.

`kubectl get` shows {columns}.
"""


def page(crd: Schema) -> str:
    (version,) = crd["spec"]["versions"]
    names, schema = crd["spec"]["names"], version["schema"]["openAPIV3Schema"]
    head = HEAD.format(
        api=f"{crd['spec']['group']}/{version['name']}",
        kind=names["kind"],
        short=names["shortNames"][0],
        scope=crd["spec"]["scope"].lower(),
        subresources=", ".join(f"`/{name}`" for name in version["subresources"]),
        columns=", ".join(f"{column['name']}" for column in version["additionalPrinterColumns"]),
    )
    parts = [head]
    for name in ("spec", "status"):
        top = schema["properties"][name]
        parts.append(f"## {name}\n\n{_sentence(top)}\n{_rules(top)}")
        parts += list(_sections(top, name))
    return "\n".join(parts)


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """The table of an object's fields, then those of the objects in it."""
    fields = _inner(schema).get("properties", {})
    required = _inner(schema).get("required", [])
    if path not in {"spec", "status"}:
        yield f"### {path}\n\n{_sentence(schema)}\n{_rules(schema)}"
    rows = [_row(name, field, is_required=name in required) for name, field in fields.items()]
    yield "\n".join(["| field | type | default | what it does |", "|---|---|---|---|", *rows, ""])
    for name, field in fields.items():
        if _inner(field).get("properties"):
            yield from _sections(field, f"{path}.{name}{'[]' if field['type'] == 'array' else ''}")


def _inner(schema: Schema) -> Schema:
    found: Schema = schema.get("items", schema)
    return found


def _row(name: str, field: Schema, *, is_required: bool) -> str:
    default = "required" if is_required else _default(field)
    text = " ".join(part for part in (_sentence(field), _values(field)) if part)
    told = [] if _inner(field).get("properties") else field.get("x-kubernetes-validations", [])
    rules = "".join(f"<br>Rule: {_escaped(rule['message'])}" for rule in told)
    return f"| `{name}` | {_type(field)} | {default} | {text}{rules} |"


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "number or text"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field["type"] == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type(field['additionalProperties'])}"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(field["type"], field["type"])


def _default(field: Schema) -> str:
    if "default" not in field:
        return "–"
    default = field["default"]
    if isinstance(default, dict | list):
        return "`{}`" if not default else "see there"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _values(field: Schema) -> str:
    inner = _inner(field)
    said = [f"One of {', '.join(f'`{value}`' for value in inner['enum'])}."] if "enum" in inner else []
    bounds = [text.format(str(inner[key]).replace("|", "\\|")) for key, text in BOUNDS if key in inner]
    if bounds:
        told = "; ".join(bounds)
        said.append(f"{told[0].upper()}{told[1:]}.")
    return " ".join(said)


def _sentence(schema: Schema) -> str:
    text = _escaped(" ".join(schema.get("description", "").split()))
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."


def _rules(schema: Schema) -> str:
    rules = [f"- {_escaped(rule['message'])}" for rule in schema.get("x-kubernetes-validations", [])]
    return "\n".join(["", "Rules:", "", *rules, ""]) if rules else ""


def _escaped(text: str) -> str:
    """For a cell of a table: no end of the cell, no markup."""
    return re.sub(r"([|<>*_])", r"\\\1", text) if "`" not in text else text.replace("|", "\\|")


if __name__ == "__main__":
    told = page(yaml.safe_load(SCHEMA.read_text()))
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(told)
    else:
        PAGE.write_text(told)
