"""The chart's routers before two models on the local cluster, as docs/router.md tells a user to install them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import LocalCluster
from demo import story
from demo.users import Doors

PAGE = Path(__file__).parents[2] / "docs" / "router.md"
SMALL, LARGE = "scripture-1m", "scripture-5m"
ROUTERS = "chat-models"


def blocks(beginning: str) -> list[str]:
    """Of the page."""
    return re.findall(rf"```yaml\n({re.escape(beginning)}.*?)```", PAGE.read_text(), re.DOTALL)


def from_zero() -> dict[str, Any]:
    """What the page lets a deployment say that may have no replica."""
    (block,) = blocks("spec:\n  routing: {modelRouters:")
    spec: dict[str, Any] = yaml.safe_load(block)["spec"]
    return spec


@contextmanager
def installed(cluster: LocalCluster, folder: Path, *options: str, tls: bool = False) -> Iterator[Doors]:
    """`options`: of helm, beside those on the page. `tls`: with the page's values for it."""
    group, secrets = blocks("modelRouters:")
    (command,) = re.findall(r"^helm (upgrade headrace .*--values) models.yaml$", PAGE.read_text(), re.MULTILINE)
    (first := folder / "models.yaml").write_text(group)
    (second := folder / "tls.yaml").write_text(secrets)
    *words, flag = [str(story.CHART) if word == "charts/headrace" else word for word in command.split()]
    cluster.helm(*words, flag, str(first), *([flag, str(second)] if tls else []), *options)
    try:
        cluster.kubectl("rollout", "status", f"deployment/{ROUTERS}", "--timeout=300s")
        yield story.doors(cluster, ROUTERS)
    finally:
        cluster.helm(*(word for word in words if word != "--reset-then-reuse-values"), "--reset-values")
        cluster.wait("routers gone", lambda: not found(cluster))


def found(cluster: LocalCluster) -> list[dict[str, Any]]:
    """The routers' pods."""
    return cluster.pods("default", f"headrace.dev/router={ROUTERS}")
