"""The Helm chart as text: rendered, and its values as a table. `python -m chart` writes anew what is made from it.

Generated: charts/headrace/README.md, and the golden renders that tests/contract compares with.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cluster.binaries import ensure

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "headrace"
VARIANTS = sorted((CHART / "ci").glob("*-values.yaml"))
GOLDEN = ROOT / "tests" / "contract" / "golden_charts"
RELEASE = "headrace"
NAMESPACE = "headrace-system"
Body = dict[str, Any]
# What has a source and a test of its own, and would only repeat it here.
ELSEWHERE = {"CustomResourceDefinition": "spec", "ConfigMap": "data", "PrometheusRule": "spec"}
README = """# Headrace's Helm chart

[Install, upgrade, uninstall](../../docs/install.md) says how; [the operator's
rights](../../docs/operator-rights.md) say what it may do. Each value, generated from `values.yaml` by `make generate`:

"""


def helm(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    program = str(ensure(lambda line: None).helm)
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def render(*options: str | Path) -> list[Body]:
    """The objects, in the order that Helm makes them. Raises AssertionError with what Helm said."""
    done = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *options)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def of_kind(bodies: list[Body], *kinds: str) -> list[Body]:
    return [body for body in bodies if body["kind"] in kinds]


def golden(values: Path) -> str:
    bodies = render("--values", values)
    for body in bodies:
        if field := ELSEWHERE.get(body["kind"]):
            body[field] = "elsewhere"
    return yaml.safe_dump_all(bodies, sort_keys=False, width=120)


def golden_file(values: Path) -> Path:
    return GOLDEN / f"{values.name.removesuffix('-values.yaml')}.yaml"


def described(text: str) -> Iterator[tuple[str, Any, str]]:
    """(dotted path, default, comment) of every value that is not only a place for others.

    A comment belongs to the key below it. Raises LookupError for a value without one.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _described(root, text.splitlines(), "")


def _described(mapping: yaml.MappingNode, lines: list[str], parent: str) -> Iterator[tuple[str, Any, str]]:
    for key, value in mapping.value:
        path = f"{parent}{key.value}"
        comment = _comment_above(key.start_mark.line, lines)
        if comment:
            yield path, yaml.safe_load(yaml.serialize(value)), comment
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _described(value, lines, f"{path}.")
        else:
            raise LookupError(f"values.yaml: {path} has no comment that says what it is for")


def _comment_above(line: int, lines: list[str]) -> str:
    words: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(words)


def readme(text: str) -> str:
    rows = [f"| `{path}` | `{json.dumps(default)}` | {comment} |" for path, default, comment in described(text)]
    return README + "\n".join(["| value | default | what it is for |", "|---|---|---|", *rows]) + "\n"


def write() -> None:
    (CHART / "README.md").write_text(readme((CHART / "values.yaml").read_text()))
    GOLDEN.mkdir(exist_ok=True)
    for values in VARIANTS:
        golden_file(values).write_text(golden(values))


if __name__ == "__main__":
    write()
