"""What an SRE is given works on a real cluster: scraping, every query of a dashboard, every rule, every runbook."""

import asyncio
import re
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import DeadlineMissed, LocalCluster, debian
from dashboards import deployment
from dashboards.__main__ import BOARDS
from demo import story
from demo.users import Habit, converse_during
from deployments import OPERATORS, condition, expositions, manifest, pods, wait_ready
from prometheus_server import Prometheus, prometheus
from tools import PROGRAMS

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "charts" / "headrace" / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
BLOCK = re.compile(r"^```(sh|promql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\bheadrace_[a-z0-9_]+")
SHORT = Habit(story.PROMPTS, max_new_tokens=16)
# These change something; they come last, in this order.
CHANGES = ("kubectl patch", "headrace resume", "kubectl rollout restart")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Prometheus]:
    with prometheus(ALERTS, tmp_path) as server:
        yield server


def test_what_an_sre_is_given_works(cluster: LocalCluster, deploy: Callable[..., str], watched: Prometheus) -> None:
    """One deployment with routers and one Prometheus for all of it: each start costs many seconds."""
    name = deploy(minReplicas=1, maxReplicas=2)
    cluster.apply(manifest(name, autoscaling={"minReplicas": 1, "maxReplicas": 2}, routing={"mode": "Headrace"}))
    wait_ready(cluster, name, 1)
    cluster.wait("routers", lambda: condition(cluster, name, "RoutingReady")["message"].startswith("2 of 2 "))
    operators = cluster.pods(story.RELEASE_NAMESPACE, OPERATORS)
    watched.find([*operators, *pods(cluster, name), *cluster.pods("default", f"headrace.dev/router={name}")])
    cluster.wait("all jobs are scraped", lambda: are_up(watched))
    through_routers = replace(story.doors(cluster, f"{name}-router"), model=name)

    def measured() -> None:
        for empty in (of_dashboards, of_the_routers_panels):
            nothing_is_left(cluster, partial(empty, watched, name))

    answers = asyncio.run(converse_during(through_routers, 4, measured, SHORT))
    assert dict(answers.failures) == {}
    cluster.wait("every rule was evaluated", lambda: all(rule["health"] != "unknown" for rule in rules(watched)))
    every_rule_can_be_evaluated(watched)
    the_operators_exposition_is_well_formed(cluster, name)
    # `kubectl logs --selector` fails for a pod that has no log yet, or that goes between its list and its log.
    cluster.wait("no pod comes or goes any more", lambda: len(pods(cluster, name)) == 1)
    every_runbook_runs(cluster, watched, name)
    cluster.kubectl("delete", "infdep", name)
    cluster.wait("no operator tells of it", lambda: not any(f'name="{name}"' in text for text in expositions(cluster)))


def are_up(watched: Prometheus) -> bool:
    targets = watched.targets()
    every = [health for job in targets.values() for health in job]
    return {"headrace-operator", "headrace-servers", "headrace-routers"} == set(targets) and set(every) == {"up"}


def nothing_is_left(cluster: LocalCluster, left: Callable[[], Collection[Any]]) -> None:
    """Sooner or later: every number takes its time to be there. Fails with what is left."""
    with suppress(DeadlineMissed):
        cluster.wait("nothing is left", lambda: not left(), interval=1.0)
    assert not left()


def of_dashboards(watched: Prometheus, name: str) -> list[tuple[str, str]]:
    """Queries that find nothing, with the title of their dashboard."""
    chosen = {"$namespace": "default", "$name": name, "$__rate_interval": "1m", "$hour_price": "2"}
    chosen["$router"] = f"{name}-models"  # there are none here; tests/e2e/test_models.py has some
    queries = [(board.title, query) for board in BOARDS for query in board.queries]
    found = {query.expr: watched.query(filled(query.expr, chosen)) for _, query in queries}
    return [(title, query.expr) for title, query in queries if not (found[query.expr] or query.may_be_empty)]


def of_the_routers_panels(watched: Prometheus, name: str) -> set[str]:
    """Queries that find nothing, among all of the row but what is about revisions on trial and their mirrors."""
    chosen = {"$namespace": "default", "$name": name, "$__rate_interval": "1m"}
    queries = [query.expr for query in deployment.BOARD.queries if "headrace_router_" in query.expr]
    empty = {expr for expr in queries if not watched.query(filled(expr, chosen))}
    return {expr for expr in empty if "revision" not in expr and "mirror" not in expr}


def filled(text: str, values: dict[str, str]) -> str:
    for variable in sorted(values, key=len, reverse=True):
        text = text.replace(variable, values[variable])
    return text


def rules(watched: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]


def every_rule_can_be_evaluated(watched: Prometheus) -> None:
    assert [rule for rule in rules(watched) if rule["health"] != "ok"] == []
    known = {re.sub(r"_total$", "", family) for family in watched.ask("metadata")}
    labels = {"headrace_dev_deployment", "headrace_dev_router"}
    asked = {name for rule in rules(watched) for name in NAME.findall(rule["query"])} - labels
    assert {name for name in asked if re.sub(r"_(total|bucket|sum|count)$", "", name) not in known} == set()


def the_operators_exposition_is_well_formed(cluster: LocalCluster, name: str) -> None:
    texts = expositions(cluster)
    promtool = debian.ensure(print).promtool
    for text in texts:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert sum(f'name="{name}"' in text for text in texts) == 1, "only the leader tells of deployments"


def every_runbook_runs(cluster: LocalCluster, watched: Prometheus, name: str) -> None:
    pages = sorted(RUNBOOKS.glob("*.md"))
    blocks = {found: page.name for page in pages for found in BLOCK.findall(page.read_text())}
    variables = {"NAMESPACE": "default", "NAME": name, "OPERATOR_NAMESPACE": story.RELEASE_NAMESPACE}
    assert len(blocks) > len(pages), "a page without a command helps nobody"
    failed = []
    for (kind, block), page in sorted(blocks.items(), key=lambda found: order(found[0][1])):
        if kind == "promql":
            watched.query(filled(block, {f"${variable}": value for variable, value in variables.items()}))
        elif not block.startswith("export "):
            ran = shell(cluster, block, variables)
            failed += [f"{page}: {block}{ran.stdout}{ran.stderr}"] if ran.returncode else []
    assert failed == []


def order(block: str) -> int:
    return next((number for number, words in enumerate(CHANGES, 1) if words in block), 0)


def shell(cluster: LocalCluster, block: str, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    environment = {**cluster.env({"PATH": f"{PROGRAMS}:/usr/bin:/bin"}), "HOME": str(cluster.directory), **variables}
    command = ["bash", "-eu", "-o", "pipefail", "-c", block]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
