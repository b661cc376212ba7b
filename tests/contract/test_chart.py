"""The chart renders what the operator accepts, grants what it needs, and refuses what it does not know."""

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headrace_operator.__main__ as operator
import pytest
import yaml
from chart import CHART, ROOT, VARIANTS, Body, described, golden, golden_file, helm, of_kind, readme, render

VALUES = (CHART / "values.yaml").read_text()


def operator_options(bodies: list[Body]) -> argparse.Namespace:
    (deployment,) = of_kind(bodies, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert [*container["command"], container["args"][0]] == ["headrace", "operator"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    operator.register(parser)
    return parser.parse_args(container["args"][1:])


def test_helm_lint_finds_nothing() -> None:
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_carries_the_crd_as_it_is() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "files" / "crds").iterdir()} == ours
    assert not (CHART / "crds").exists(), "Helm would install it, and never upgrade it"


def test_the_schema_is_rendered_as_it_is_and_stays_after_an_uninstall() -> None:
    (rendered,) = of_kind(render(), "CustomResourceDefinition")
    source = yaml.safe_load((ROOT / "crds" / f"{rendered['metadata']['name']}.yaml").read_text())
    assert rendered["spec"] == source["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition")


def test_what_routers_may_read_stays_after_an_uninstall() -> None:
    """The operator's routers do: one that starts anew has to see replicas. The role alone gives nobody anything."""
    kept = [body for body in render() if "helm.sh/resource-policy" in body["metadata"].get("annotations", {})]
    assert {(body["kind"], body["metadata"]["name"]) for body in kept} == {
        ("CustomResourceDefinition", "inferencedeployments.headrace.dev"),
        ("ClusterRole", "headrace-router"),
    }


def test_the_whole_cluster_is_watched_by_default() -> None:
    bodies = render()
    options = operator_options(bodies)
    assert options.all_namespaces
    assert options.server_image == "headrace-server:0.1.0"
    names = {body["metadata"]["name"] for body in of_kind(bodies, "ClusterRoleBinding")}
    assert names == {"headrace", "headrace-nodes"}
    assert options.watch_nodes


def test_gpu_budgets_reach_the_operator() -> None:
    options = operator_options(render("--set", "gpuBudgets.team-a=16,gpuBudgets.team-b=1000000"))
    assert dict(options.gpu_budgets) == {"team-a": 16, "team-b": 1_000_000}


def test_keys_of_who_may_release_reach_the_operator() -> None:
    key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
    assert operator_options(render("--set", f"gatePublicKeys={{{key}}}")).gate_keys == [key]


def test_watched_namespaces_need_no_rights_elsewhere() -> None:
    bodies = render("--set", "watchNamespaces={team-a,team-b}")
    options = operator_options(bodies)
    assert options.namespaces == ["team-a", "team-b"]
    assert [body["metadata"]["name"] for body in of_kind(bodies, "ClusterRoleBinding")] == ["headrace-nodes"]
    bound = {body["metadata"]["namespace"] for body in of_kind(bodies, "RoleBinding")}
    assert bound == {"team-a", "team-b", "headrace-system"}


def test_nodes_can_be_left_alone() -> None:
    bodies = render("--set", "watchNamespaces={team-a}", "--set", "watchNodes=false")
    assert not operator_options(bodies).watch_nodes
    assert not of_kind(bodies, "ClusterRoleBinding")
    assert "nodes" not in str(of_kind(bodies, "ClusterRole"))


def test_no_secrets_no_wildcards_and_no_writes_to_what_users_own() -> None:
    rules = [
        rule
        for kind in ("Role", "ClusterRole")
        for body in of_kind(render(), kind)
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
        ("gatePublicKeys={release.pub}", "gatePublicKeys"),
        ("crds.enabled=true", "crds"),
        ("image.digest=latest", "digest"),
        ("admissionPolicy.tenants.actions={Deny,Warn}", "actions"),
        ("admissionPolicy.tenants.maxGpus=-1", "maxGpus"),
        ("networkPolicy.operator.apiServerPorts={0}", "apiServerPorts"),
        ("watchNamespaces={Team}", "watchNamespaces"),
        ("monitoring.podMonitor.interval=soon", "interval"),
        ("modelRouters.chat.namespace=default", "config"),
        ("modelRouters.Chat.namespace=default", "modelRouters"),
        (r"podLabels.app\.kubernetes\.io/instance=other", "app.kubernetes.io/instance"),
    ],
)
def test_an_unknown_or_impossible_value_is_refused(option: str, field: str) -> None:
    done = helm("template", "headrace", CHART, "--set", option)
    assert done.returncode != 0
    assert field in done.stderr


def test_rendering_twice_gives_the_same() -> None:
    assert render() == render()


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_a_render_is_as_it_was_read_last(values: Path) -> None:
    """A change of a template shows in a diff: `make generate`, and read it."""
    assert golden(values) == golden_file(values).read_text()
    assert helm("lint", "--strict", CHART, "--values", values).returncode == 0


def test_every_golden_render_has_its_values() -> None:
    assert {file.name for file in golden_file(VARIANTS[0]).parent.iterdir()} == {golden_file(v).name for v in VARIANTS}


def test_every_value_is_documented_and_typed() -> None:
    rows = list(described(VALUES))
    assert (CHART / "README.md").read_text() == readme(VALUES), "`make generate`"
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path, default, comment in rows:
        assert len(comment) > 10, path
        node = schema
        for part in path.split("."):
            node = properties(node, schema)[part]
        if isinstance(default, dict) and default:
            assert default.keys() <= properties(node, schema).keys() or path == "resources"


def properties(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if reference := node.get("$ref"):
        node = schema["definitions"][reference.rpartition("/")[2]]
    assert node.get("additionalProperties") is False or "properties" not in node
    found: dict[str, Any] = node.get("properties", {})
    return found


def test_a_value_without_words_is_found() -> None:
    with pytest.raises(LookupError, match=r"a\.c has no comment"):
        list(described("a:\n  # Told.\n  b: 1\n  c: 2\n"))


def test_several_operators_spread_and_leave_one_for_an_eviction() -> None:
    bodies = render()
    (deployment,) = of_kind(bodies, "Deployment")
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 2
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (budget,) = of_kind(bodies, "PodDisruptionBudget")
    assert budget["spec"]["selector"] == spread["labelSelector"] == deployment["spec"]["selector"]
    assert not of_kind(render("--set", "replicas=1"), "PodDisruptionBudget")


def test_a_build_of_a_version_gives_labels_and_tags_that_are_allowed(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "headrace")
    about = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(
        re.sub(r"^(version|appVersion): .*", r"\1: 1.2.3+7.gdead", about, flags=re.MULTILINE)
    )
    done = helm(
        "template", "headrace", chart, "--values", chart / "ci" / "everything-values.yaml", "--set", "image.digest="
    )
    assert done.returncode == 0, done.stderr
    bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
    ours = [body for body in bodies if body["kind"] != "CustomResourceDefinition"]  # which has a field of that name
    labels = [each for body in ours for key, each in entries(body) if key == "labels"]
    values = {value for each in labels for value in each.values()}
    assert {"headrace-1.2.3_7.gdead", "1.2.3_7.gdead"} <= values
    allowed = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
    assert [value for value in values if "{{" not in value and not allowed.fullmatch(value)] == []
    assert operator_options(of_kind(bodies, "Deployment")[:1]).server_image == "headrace-server:1.2.3_7.gdead"


def test_a_constraint_with_a_selector_of_its_own_keeps_it(tmp_path: Path) -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    chosen = {"matchExpressions": [{"key": "team", "operator": "Exists"}]}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"topologySpreadConstraints": [{**spread, "labelSelector": chosen}]}))
    (deployment,) = of_kind(render("--values", values), "Deployment")
    (rendered,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert rendered == {**spread, "labelSelector": chosen}


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    """Kubernetes allows them, and refuses a number where a name has to be."""
    values = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())
    routers = values["modelRouters"]["chat"]
    routers |= {
        "namespace": "0123",
        "tls": {"secretName": "456"},
        "replicaTls": {"small": {"secretName": "7", "key": "8"}},
    }
    del routers["config"]["models"]["other"]["replicaName"]
    values["networkPolicy"]["servers"]["namespaces"] = ["1e3", "true"]
    values |= {"watchNamespaces": ["0x1"], "serviceAccount": {"name": "99"}, "priorityClassName": "100"}
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    done = helm("template", "2024", CHART, "--namespace", "2024", "--values", tmp_path / "values.yaml")
    assert done.returncode == 0, done.stderr
    names = {"name", "namespace", "secretName", "key", "serviceAccountName", "priorityClassName"}
    found = [(key, value) for body in yaml.safe_load_all(done.stdout) for key, value in entries(body)]
    assert {"2024", "0123", "456", "7", "8", "1e3", "true", "0x1", "99", "100"} <= {
        value for _, value in found if isinstance(value, str)
    }
    assert [each for each in found if each[0] in names and not isinstance(each[1], str | dict)] == []
    assert all(
        isinstance(value, str) for key, value in found if key.startswith(("app.kubernetes.io/", "kubernetes.io/"))
    )


def entries(body: Any) -> Iterator[tuple[str, Any]]:
    """Of all mappings within it, and the items of lists as if each had their list's key."""
    for key, value in body.items() if isinstance(body, dict) else ():
        for each in value if isinstance(value, list) else [value]:
            yield key, each
            yield from entries(each)


def test_two_releases_have_no_object_in_common() -> None:
    def objects(release: str, watched: str, *options: str) -> set[tuple[str, str, str]]:
        values = ("--values", CHART / "ci" / "everything-values.yaml", "--set", "modelRouters=null")
        words = (release, CHART, "--namespace", "shared", *values, "--set", f"watchNamespaces={{{watched}}}", *options)
        done = helm("template", *words)
        assert done.returncode == 0, done.stderr
        metadata = [(body["kind"], body["metadata"]) for body in yaml.safe_load_all(done.stdout) if body]
        return {(kind, about.get("namespace", ""), about["name"]) for kind, about in metadata}

    second = objects("prod", "team-b", "--set", "crds.install=false")
    assert objects("headrace", "team-a") & second == set()


LONGEST = "r" * 53  # as Helm lets a release's name be


def test_the_longest_name_of_a_release_gives_names_that_are_allowed_and_differ() -> None:
    """63 letters is what a Service's name may have, and the value of a label; 253 most others."""
    options = [f"monitoring.{what}.enabled=true" for what in ("serviceMonitor", "serverPodMonitor", "dashboards")]
    done = helm("template", LONGEST, CHART, *(word for option in options for word in ("--set", option)))
    assert done.returncode == 0, done.stderr
    bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
    names = [(body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"]) for body in bodies]
    assert len(set(names)) == len(names)
    assert all(len(name) <= (63 if kind == "Service" else 253) for kind, _, name in names)
    labels = {value for body in bodies for value in body["metadata"].get("labels", {}).values()}
    assert all(len(value) <= 63 for value in labels)


def test_pods_get_further_labels_and_keep_ours() -> None:
    (deployment,) = of_kind(render("--set", "podLabels.team=inference"), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "inference"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_digest_counts_instead_of_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    bodies = render("--set", f"server.image.digest={digest},server.image.tag=v7,image.digest={digest}")
    assert operator_options(bodies).server_image == f"headrace-server@{digest}"
    (deployment,) = of_kind(bodies, "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"headrace-operator@{digest}"


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("networkPolicy.servers.enabled=true", "networkPolicy.servers.namespaces or watchNamespaces"),
        ("admissionPolicy.tenants.enabled=true", "nothing is limited; set images"),
    ],
)
def test_what_would_do_nothing_is_refused_with_the_remedy(option: str, remedy: str) -> None:
    done = helm("template", "headrace", CHART, "--set", option)
    assert done.returncode != 0
    assert remedy in done.stderr


def test_only_clients_reach_models_and_only_the_operator_and_prometheus_the_admin_port() -> None:
    bodies = render("--set", "watchNamespaces={team-a,team-b},networkPolicy.servers.enabled=true")
    servers = [body for body in of_kind(bodies, "NetworkPolicy") if body["metadata"]["name"].endswith("-servers")]
    assert [body["metadata"]["namespace"] for body in servers] == ["team-a", "team-b"]
    clients, admin = servers[0]["spec"]["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["grpc", "http"]
    assert "from" not in clients
    assert [port["port"] for port in admin["ports"]] == ["admin"]
    own, routers, prometheus = admin["from"]
    assert routers == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "headrace-router"}}}
    (deployment,) = of_kind(bodies, "Deployment")
    assert own["podSelector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert own["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "headrace-system"}
    assert "podSelector" not in prometheus


def test_the_policy_that_a_page_shows_lets_in_whom_the_charts_lets_in() -> None:
    (block,) = re.findall(
        r"```yaml\n(apiVersion: networking.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL
    )
    shown = yaml.safe_load(block)["spec"]
    rendered = render("--set", "watchNamespaces={team-a},networkPolicy.servers.enabled=true")
    (policy,) = [body for body in of_kind(rendered, "NetworkPolicy") if body["metadata"]["name"].endswith("-servers")]
    assert shown["podSelector"] == policy["spec"]["podSelector"]
    routers = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "headrace-router"}}}
    for spec in (shown, policy["spec"]):
        assert routers in spec["ingress"][1]["from"]


def test_alerts_and_dashboards_are_those_of_the_chart() -> None:
    bodies = render("--set", "monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true")
    alerts = CHART / "files" / "alerts.yaml"
    rules = [body["spec"] for body in of_kind(bodies, "PrometheusRule")]
    assert rules == ([yaml.safe_load(alerts.read_text())] if alerts.exists() else [])
    boards = {file.name: json.loads(file.read_text()) for file in (CHART / "files" / "dashboards").glob("*.json")}
    maps = [
        body for body in of_kind(bodies, "ConfigMap") if body["metadata"].get("labels", {}).get("grafana_dashboard")
    ]
    assert {name: json.loads(text) for body in maps for name, text in body["data"].items()} == boards
