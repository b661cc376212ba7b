"""The chart's routers before several models: the router takes what is rendered, and may read what the file names."""

import argparse
from pathlib import Path
from typing import Any

import headrace_router.__main__ as router
import pytest
import yaml
from chart import CHART, Body, helm, of_kind, render
from headrace_operator.fields import Section
from headrace_operator.kube import OWN_PODS
from headrace_operator.routing_fields import routing
from headrace_operator.store import Store
from headrace_router.arguments import settings
from headrace_router.observe.pods import Replicas
from headrace_router.settings import Trust

EVERYTHING = CHART / "ci" / "everything-values.yaml"
GROUP: dict[str, Any] = yaml.safe_load(EVERYTHING.read_text())["modelRouters"]["chat"]
NAME = "chat-models"


@pytest.fixture(scope="module")
def rendered() -> list[Body]:
    return [body for body in render("--values", EVERYTHING) if body["metadata"]["name"].startswith(NAME)]


def test_the_router_starts_with_what_is_rendered(rendered: list[Body], tmp_path: Path) -> None:
    (deployment,), (file,) = of_kind(rendered, "Deployment"), of_kind(rendered, "ConfigMap")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [*container["command"], container["args"][0]] == ["headrace", "route"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    authorities = {model: f"replicas/{model}.crt" for model in GROUP["replicaTls"]}
    written = yaml.safe_load(file["data"]["models.yaml"])
    assert {name: model.pop("replicaCa", None) for name, model in written["models"].items()} == {
        "large": None,
        **authorities,
    }
    assert written == GROUP["config"]
    projected = [each for each in pod["volumes"] if each.get("projected")]
    file_source = {"configMap": {"name": file["metadata"]["name"]}}
    (volume,) = [each for each in projected if file_source in each["projected"]["sources"]]
    words = [word.replace(f"{mounts[volume['name']]}/", f"{tmp_path}/") for word in container["args"][1:]]
    (tmp_path / "models.yaml").write_text(file["data"]["models.yaml"])
    parser = argparse.ArgumentParser(exit_on_error=False)
    router.register(parser)
    told = settings(parser.parse_args(words), tmp_path)
    assert {model.name: model.replicas for model in told.models} == {
        "small": Replicas("team-a", "scripture-1m"),
        "large": Replicas("team-b", "scripture-5m"),
        "other": None,
    }
    assert {model.name: model.trust for model in told.models} == {
        "small": Trust(tmp_path / authorities["small"], "scripture-1m.team-a.svc"),
        "large": None,
        "other": Trust(tmp_path / authorities["other"], "other.example.com"),
    }
    assert told.certificate == (Path(mounts["tls"], "tls.crt"), Path(mounts["tls"], "tls.key"))
    assert told.rules.fallback is not None
    assert [rule.request_bytes for rule in told.rules.rules] == [None, None, 2_000_000, None]
    assert told.listening.host == "$(POD_IP)"


def test_of_a_replicas_secret_a_router_gets_who_signs_and_no_key(rendered: list[Body]) -> None:
    (deployment,) = of_kind(rendered, "Deployment")
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    sources = volumes["models"]["projected"]["sources"]
    assert [source["secret"] for source in sources if "secret" in source] == [
        {"name": "other-ca", "items": [{"key": "bundle.pem", "path": "replicas/other.crt"}]},
        {"name": "scripture-1m-tls", "items": [{"key": "ca.crt", "path": "replicas/small.crt"}]},
    ]
    assert volumes["tls"]["secret"]["secretName"] == "chat-models-tls"


def test_the_operator_finds_the_routers_by_the_name_that_a_manifest_gives_them(rendered: list[Body]) -> None:
    (deployment,) = of_kind(rendered, "Deployment")
    routed = Section({"modelRouters": ["team-a/chat"]}, "spec.routing")
    (named,) = routing(routed).model_routers
    label, _, value = OWN_PODS.partition("=")  # what lists leave out is gone
    assert deployment["spec"]["template"]["metadata"]["labels"][label] == value
    store = Store(lambda key, asked: None)
    pod = {**deployment["spec"]["template"], "metadata": {
        **deployment["spec"]["template"]["metadata"], "namespace": GROUP["namespace"], "uid": "1", "name": "a",
    }}  # fmt: skip
    assert store.put_own(pod)
    assert [body["metadata"]["name"] for body in store.routers((named.namespace, named.label))] == ["a"]


def test_without_tls_both_sides_speak_plain_text(tmp_path: Path) -> None:
    plain = {**GROUP, "config": {"models": {"small": {"deployment": "a/b"}}, "default": "small"}}
    values = {"modelRouters": {"chat": {name: plain[name] for name in ("namespace", "config")}}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    rendered = [body for body in render("--values", tmp_path / "values.yaml") if body["metadata"]["name"] == NAME]
    (deployment,), (service,) = of_kind(rendered, "Deployment"), of_kind(rendered, "Service")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert not [word for word in container["args"] if "tls" in word]
    assert [volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]] == [
        "models", "identity", "tmp",
    ]  # fmt: skip
    assert [port.get("appProtocol") for port in service["spec"]["ports"]] == ["kubernetes.io/h2c", None]


def test_it_may_read_where_its_deployments_are_and_nowhere_else(rendered: list[Body]) -> None:
    bindings = of_kind(rendered, "RoleBinding")
    assert {body["metadata"]["namespace"] for body in bindings} == {"team-a", "team-b"}
    (account,) = of_kind(rendered, "ServiceAccount")
    (deployment,) = of_kind(rendered, "Deployment")
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    for body in bindings:
        assert body["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": "team-a"}]
    (role,) = {body["roleRef"]["name"] for body in bindings}
    (rules,) = [body["rules"] for body in of_kind(render(), "ClusterRole") if body["metadata"]["name"] == role]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}


def test_network_policies_and_monitors_know_it_for_a_router(rendered: list[Body]) -> None:
    (deployment,), (service,) = of_kind(rendered, "Deployment"), of_kind(rendered, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "headrace-router"
    assert labels["headrace.dev/router"] == NAME
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]


def test_replicas_of_other_namespaces_let_their_routers_in(rendered: list[Body]) -> None:
    """The routers are in team-a; large's replicas are in team-b."""
    (routers,) = of_kind(rendered, "Deployment")
    labels = routers["spec"]["template"]["metadata"]["labels"]
    policies = {
        body["metadata"]["namespace"]: body["spec"]["ingress"]
        for body in of_kind(render("--values", EVERYTHING), "NetworkPolicy")
        if body["metadata"]["name"].endswith("-servers")
    }
    there = {"matchLabels": {"kubernetes.io/metadata.name": "team-a"}}
    clients, admin = policies["team-b"]
    for rule in (clients, admin):
        (peer,) = [peer for peer in rule["from"] if peer.get("namespaceSelector") == there]
        assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert not [peer for rule in policies["team-a"] for peer in rule["from"] if peer.get("namespaceSelector") == there]


PLACED = ("nodeSelector", "tolerations", "affinity", "priorityClassName")


def test_its_pods_are_placed_and_marked_as_the_group_says(rendered: list[Body]) -> None:
    (deployment,) = of_kind(rendered, "Deployment")
    template = deployment["spec"]["template"]
    assert {field: template["spec"][field] for field in PLACED} == {field: GROUP[field] for field in PLACED}
    assert template["spec"]["containers"][0]["resources"] == GROUP["resources"]
    assert GROUP["podLabels"].items() <= template["metadata"]["labels"].items()
    assert GROUP["podAnnotations"].items() <= template["metadata"]["annotations"].items()


def test_routers_are_scraped_where_they_are(tmp_path: Path) -> None:
    """Which may be a namespace that the operator does not watch."""
    values = {
        "watchNamespaces": ["team-a", "team-b"],
        "modelRouters": {"chat": {**GROUP, "namespace": "gateways"}, "other": {**GROUP, "namespace": "team-a"}},
        "monitoring": {"routerPodMonitor": {"enabled": True}},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    (monitor,) = of_kind(render("--values", tmp_path / "values.yaml"), "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b", "gateways"]}


def test_another_file_replaces_the_routers_and_another_chart_does_not(rendered: list[Body], tmp_path: Path) -> None:
    def template(body: list[Body]) -> Body:
        (found,) = [each for each in of_kind(body, "Deployment") if each["metadata"]["name"] == NAME]
        made: Body = found["spec"]["template"]
        return made

    changed = render("--values", EVERYTHING, "--set", "modelRouters.chat.config.fallback.meanLogprob=-2")
    assert template(changed)["metadata"]["annotations"] != template(rendered)["metadata"]["annotations"]
    assert not any("chart" in label for label in template(rendered)["metadata"]["labels"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("config.default=huge", 'modelRouters.chat.config.default is "huge"; must be one of large, other, small'),
        ("config.fallback.to=huge", 'modelRouters.chat.config.fallback.to is "huge"; must be one of'),
        ("config.rules[1].model=huge", 'modelRouters.chat.config.rules[1].model is "huge"; must be one of'),
        ("config.fallback.meanLogprob=1", "meanLogprob"),
        ("config.rules[0].when=now", "when"),
        ("config.rules[0].name=fallback", "name"),
        ("config.models.small.deployment=scripture-1m", "deployment"),
        ("config.models.small.replicas={127.0.0.1}", "small"),
        ("config.models.small.costPerHour=-1", "costPerHour"),
        (
            "config.models.small.replicaCa=/ca.crt",
            "name the Secret that holds it in modelRouters.chat.replicaTls.small",
        ),
        (
            "config.models.large.replicaName=a.b.svc",
            "name the Secret of who signs for them in modelRouters.chat.replicaTls.large",
        ),
        (
            "config.models.new.replicas={a},modelRouters.chat.replicaTls.new.secretName=a",
            "modelRouters.chat.config.models.new.replicaName is missing",
        ),
        (
            "replicaTls.huge.secretName=a",
            'modelRouters.chat.replicaTls names "huge"; must be one of large, other, small',
        ),
        ("config.models.other.replicaName=10.0.0.1", "replicaName"),
        ("config.models.other.replicaName=*.example.com", "replicaName"),
        ("replicaTls.small.secretName=A/B", "secretName"),
        ("replicaTls.small.name=a", "name"),
        ("tls.secretName=", "secretName"),
        ("replicas=0", "replicas"),
        (r"podLabels.headrace\.dev/router=other", "headrace.dev/router"),
        (r"podAnnotations.headrace\.dev/models=other", "headrace.dev/models"),
        ("namespace=", "namespace"),
    ],
)
def test_a_file_that_the_router_would_refuse_is_refused_before_it_is_installed(option: str, said: str) -> None:
    done = helm("template", "headrace", CHART, "--values", EVERYTHING, "--set", f"modelRouters.chat.{option}")
    assert done.returncode != 0
    assert said in done.stderr
