"""The chart renders what the operator accepts, grants what it needs, and refuses what it does not know."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

import headrace_operator.__main__ as operator
import pytest
import yaml
from cluster.binaries import ensure

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "headrace"
pytestmark = pytest.mark.timeout(120)


def helm(*words: str) -> "subprocess.CompletedProcess[str]":
    program = str(ensure(lambda line: None).helm)
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def rendered(*options: str) -> list[dict[str, Any]]:
    done = helm("template", "headrace", str(CHART), "--namespace", "headrace-system", *options)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def of_kind(bodies: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [body for body in bodies if body["kind"] == kind]


def operator_options(bodies: list[dict[str, Any]]) -> argparse.Namespace:
    (deployment,) = of_kind(bodies, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert [*container["command"], container["args"][0]] == ["headrace", "operator"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    operator.register(parser)
    return parser.parse_args(container["args"][1:])


def test_helm_lint_finds_nothing() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_carries_the_crd_as_it_is() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == ours


def test_the_whole_cluster_is_watched_by_default() -> None:
    bodies = rendered()
    options = operator_options(bodies)
    assert options.all_namespaces
    assert options.server_image == "headrace-server:0.1.0"
    names = {body["metadata"]["name"] for body in of_kind(bodies, "ClusterRoleBinding")}
    assert names == {"headrace", "headrace-nodes"}
    assert options.watch_nodes


def test_gpu_budgets_reach_the_operator() -> None:
    options = operator_options(rendered("--set", "gpuBudgets.team-a=16,gpuBudgets.team-b=1000000"))
    assert dict(options.gpu_budgets) == {"team-a": 16, "team-b": 1_000_000}


def test_watched_namespaces_need_no_rights_elsewhere() -> None:
    bodies = rendered("--set", "watchNamespaces={team-a,team-b}")
    options = operator_options(bodies)
    assert options.namespaces == ["team-a", "team-b"]
    assert [body["metadata"]["name"] for body in of_kind(bodies, "ClusterRoleBinding")] == ["headrace-nodes"]
    bound = {body["metadata"]["namespace"] for body in of_kind(bodies, "RoleBinding")}
    assert bound == {"team-a", "team-b", "headrace-system"}


def test_nodes_can_be_left_alone() -> None:
    bodies = rendered("--set", "watchNamespaces={team-a}", "--set", "watchNodes=false")
    assert not operator_options(bodies).watch_nodes
    assert not of_kind(bodies, "ClusterRoleBinding")
    assert "nodes" not in str(of_kind(bodies, "ClusterRole"))


def test_no_secrets_no_wildcards_and_no_writes_to_what_users_own() -> None:
    rules = [
        rule
        for kind in ("Role", "ClusterRole")
        for body in of_kind(rendered(), kind)
        if not body["metadata"]["name"].endswith(("-view", "-edit"))  # for people, not for the operator
        for rule in body["rules"]
    ]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]
        if "inferencedeployments" in rule["resources"]:
            assert set(rule["verbs"]) == {"list", "watch"}


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("replica=2", "replica"),
        ("replicas=0", "replicas"),
        ("interval=0", "interval"),
        ("image.pullPolicy=Often", "pullPolicy"),
        ("gpuBudgets.team-a=-1", "gpuBudgets"),
    ],
)
def test_an_unknown_or_impossible_value_is_refused(option: str, field: str) -> None:
    done = helm("template", "headrace", str(CHART), "--set", option)
    assert done.returncode != 0
    assert field in done.stderr


def test_rendering_twice_gives_the_same() -> None:
    assert rendered() == rendered()
