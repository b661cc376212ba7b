"""The chart at a real API server: every variant is accepted, and each policy refuses what it is there to refuse."""

import importlib.util
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schema
import yaml
from chart import CHART, NAMESPACE, RELEASE, ROOT, VARIANTS, Body, of_kind, render
from cluster import CommandFailed, LocalCluster
from cluster.api import ApiError
from headrace_operator.decide import manifests, routing
from headrace_operator.decide.routing import RouterParts
from headrace_operator.decide.values import Revision
from headrace_operator.routing_fields import Routing, RoutingMode
from observations import IMAGE, deployment

pytestmark = pytest.mark.cluster
FOREIGN = Path(__file__).parents[1] / "support" / "foreign_crds"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
OBJECTS = "/apis/headrace.dev/v1alpha1/namespaces/team-a/inferencedeployments"
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
ROLES = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole")
EVERYTHING = CHART / "ci" / "everything-values.yaml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("chart"), nodes=()) as running:
        schema.install(running)
        running.kubectl("create", "-f", FOREIGN)
        for namespace in (NAMESPACE, "team-a", "team-b"):
            running.namespace(namespace)
        running.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        running.apply(*of_kind(render("--set", "watchNamespaces={team-a,team-b}"), *ROLES))
        foreign = [f"crd/{yaml.safe_load(file.read_text())['metadata']['name']}" for file in FOREIGN.iterdir()]
        running.kubectl("wait", "--for=condition=Established", *foreign, "--timeout=300s")
        yield running


def dry_run(cluster: LocalCluster, *bodies: Body) -> None:
    """Validated and admitted, not stored. Raises CommandFailed, also for a field that Kubernetes does not know."""
    stream = "\n".join(json.dumps(body) for body in bodies)
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=stream)


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_a_variant_is_accepted_field_by_field(cluster: LocalCluster, values: Path) -> None:
    there = {"CustomResourceDefinition", *ROLES}  # stored already; applied, then
    bodies = render("--values", values)
    dry_run(cluster, *(body for body in bodies if body["kind"] not in there))
    stream = "\n".join(json.dumps(body) for body in of_kind(bodies, *there))
    cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-", stdin=stream
    )


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_its_pods_pass_the_restricted_standard(cluster: LocalCluster, values: Path) -> None:
    """Of operators, routers and `helm test`; and it is the standard that lets them: a root user would be refused."""
    bodies = render("--values", values)
    templates = [workload["spec"]["template"] for workload in of_kind(bodies, "Deployment")]
    dry_run(cluster, *map(alone, templates), *of_kind(bodies, "Pod"))
    for template in templates:
        lax = alone(template)
        lax["spec"] = {**lax["spec"], "securityContext": {}}
        with pytest.raises(CommandFailed, match='violates PodSecurity "restricted'):
            dry_run(cluster, lax)


def alone(template: Body) -> Body:
    """A pod of a Deployment's template, where the standard is enforced."""
    metadata = {**template["metadata"], "generateName": "alone-", "namespace": NAMESPACE}
    spec = {**template["spec"], "serviceAccountName": "default"}  # its own may be of another namespace
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_what_its_schemas_allow(cluster: LocalCluster, file: Path) -> None:
    cluster.kubectl("create", "--namespace=team-b", "--dry-run=server", "--validate=strict", "-f", file)


# -- what tenants may ask for


@pytest.fixture(scope="module")
def limits(cluster: LocalCluster) -> None:
    """The limits of ci/everything-values.yaml, once the API server holds to them."""
    policies = [
        body for body in of_kind(render("--values", EVERYTHING), *POLICIES) if "-tenants" in body["metadata"]["name"]
    ]
    cluster.apply(*policies)
    cluster.wait("the policy is in force", lambda: refusal(cluster, {"image": "registry.example/other:1"}))


AUTH = {"apiKeys": {"secretName": "headrace-keys"}}
GATE_REPORT = {"configMapName": "llama-gate"}


def tenant(changes: Body) -> Body:
    """An InferenceDeployment within all limits, changed at dotted paths of its spec; None takes a field away."""
    model = {"source": "pvc://models/llama", "gateReport": dict(GATE_REPORT)}
    spec: Body = {"model": model, "auth": dict(AUTH)}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = spec
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    spec = {key: value for key, value in spec.items() if value is not None}
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "chat"},
        "spec": spec,
    }


def refusal(cluster: LocalCluster, changes: Body) -> str | None:
    """What the API server says to it, or None."""
    try:
        cluster.api.create(f"{OBJECTS}?dryRun=All&fieldValidation=Strict", tenant(changes))
    except ApiError as error:
        return str(error)
    return None


ALLOWED: dict[str, Body] = {
    "the operator's own image": {},
    "an image of the list": {"image": "registry.example/headrace-server:0.2.0"},
    "a model from the registry": {"model.source": "oci://registry.example/models/llama:8b"},
    "a class of the list": {"pod.priorityClassName": "serving"},
    "all GPUs that there are": {
        "resources.gpus": 4,
        "autoscaling": {"minReplicas": 3, "maxReplicas": 3, "warmStandby": 1},
    },
    "an embedder that passed its gate": {"model.task": "embed"},
    "a ranker, which no gate measures": {"model": {"source": "pvc://models/ranker", "task": "rerank"}},
    "a password of its own": {"pod.imagePullSecrets": ["headrace-registry"]},
    "certificates for keys": {
        "auth": {"tls": {"secretName": "headrace-tls"}, "clientCA": {"secretName": "headrace-clients"}}
    },
}
OFFICE = {"name": "office", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "maxReplicas": 9}
REFUSED: dict[str, tuple[Body, str]] = {
    "another image": (
        {"image": "registry.example/headrace-server-of-mine:1"},
        "spec.image: registry.example/headrace-server-of",
    ),
    "a claim that begins alike": (
        {"model.source": "pvc://models-of-others/llama"},
        "spec.model.source: pvc://models-of-others",
    ),
    "another registry": (
        {"model.source": "oci://elsewhere.example/llama:8b"},
        "it may begin with pvc://models/, oci://",
    ),
    "a Secret of others": ({"auth": {"apiKeys": {"secretName": "bank"}}}, "Secrets bank not all are allowed"),
    "a certificate of others": ({"auth": {**AUTH, "tls": {"secretName": "bank"}}}, "headrace-keys, bank"),
    "a password of others": ({"pod.imagePullSecrets": ["bank"]}, "spec.pod.imagePullSecrets"),
    "a class above all": ({"pod.priorityClassName": "system-node-critical"}, "allowed: serving, batch"),
    "a replica too large": ({"resources.gpus": 8}, "spec.resources.gpus: 8 is more than a replica"),
    "too many GPUs": ({"resources.gpus": 4, "autoscaling.maxReplicas": 5}, "makes 20 GPUs"),
    "too many with standby": (
        {"resources.gpus": 4, "autoscaling": {"maxReplicas": 4, "warmStandby": 1}},
        "makes 20 GPUs",
    ),
    "too many with canaries": (
        {
            "resources.gpus": 4,
            "autoscaling": {"minReplicas": 4, "maxReplicas": 4},
            "rollout": {"strategy": "Canary", "canary": {"replicas": 2}},
        },
        "makes 24 GPUs",
    ),
    "too many with shadows": (
        {
            "resources.gpus": 4,
            "autoscaling.maxReplicas": 4,
            "rollout": {"strategy": "Shadow"},
            "routing": {"mode": "Headrace"},
        },
        "makes 20 GPUs",
    ),
    "too many replicas": ({"autoscaling.maxReplicas": 9}, "spec.autoscaling.maxReplicas: 9"),
    "too many on workdays": ({"autoscaling": {"maxReplicas": 2, "schedules": [OFFICE]}}, "schedules included"),
    "a model that passed no gate": (
        {"model": {"source": "pvc://models/llama"}},
        "spec.model.gateReport: name the report of the release gate",
    ),
    "an embedder that passed no gate": (
        {"model": {"source": "pvc://models/bge", "task": "embed"}},
        "a model that generates or embeds is not allowed in this cluster without one",
    ),
    "an answer for everybody": ({"auth": None}, "spec.auth: give apiKeys or clientCA"),
}


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", ALLOWED)
def test_within_the_limits_all_is_as_before(cluster: LocalCluster, name: str) -> None:
    assert refusal(cluster, ALLOWED[name]) is None


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", REFUSED)
def test_beyond_a_limit_the_api_server_names_field_and_remedy(cluster: LocalCluster, name: str) -> None:
    changes, words = REFUSED[name]
    said = refusal(cluster, changes)
    assert said is not None
    assert words in said
    assert "headrace-tenants" in said


@pytest.mark.usefixtures("limits")
def test_what_was_there_before_the_limits_stays_until_its_spec_changes(cluster: LocalCluster) -> None:
    binding = "validatingadmissionpolicybinding/headrace-tenants"
    stored = cluster.object(binding)
    cluster.kubectl("delete", binding)
    beyond = tenant({"resources.gpus": 8})
    beyond["metadata"] = {"name": "old", "namespace": "team-a"}
    cluster.wait("the limits are off", lambda: cluster.apply(beyond) or True)
    cluster.apply(
        {key: stored[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "headrace-tenants"}}
    )
    cluster.wait("they are on again", lambda: refusal(cluster, {"resources.gpus": 8}))
    cluster.kubectl("label", "infdep", "old", "-n", "team-a", "seen=yes")
    with pytest.raises(CommandFailed, match="more than a replica may have"):
        cluster.kubectl(
            "patch", "infdep", "old", "-n", "team-a", "--type=merge", "-p", '{"spec": {"resources": {"gpus": 7}}}'
        )
    cluster.kubectl("delete", "infdep", "old", "-n", "team-a")


@pytest.mark.usefixtures("limits")
def test_other_namespaces_have_no_limits(cluster: LocalCluster) -> None:
    body = tenant({"image": "anything.example/at/all:1", "auth": None})
    cluster.api.create(f"{OBJECTS.replace('team-a', 'default')}?dryRun=All", body)


# -- what the operator's own account may write


@pytest.fixture(scope="module")
def as_operator(cluster: LocalCluster) -> Callable[..., str]:
    """kubectl as the operator's service account, with its rights, once the policy holds."""
    bodies = render("--set", "watchNamespaces={team-a,team-b}")
    cluster.apply(*(body for body in of_kind(bodies, *POLICIES) if "-operator" in body["metadata"]["name"]))
    cluster.kubectl("create", "serviceaccount", "admin", "--namespace=team-a")
    account = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"

    def run(verb: str, *words: str, body: Body | None = None) -> str:
        stdin = None if body is None else json.dumps(body)
        return cluster.kubectl(verb, account, "--namespace=team-a", "--dry-run=server", *words, stdin=stdin)

    def refused(body: Body) -> bool:
        try:
            run("create", "-f", "-", body=body)
        except CommandFailed as error:
            return "headrace-operator" in error.stderr
        return False

    # one for each of the policies
    for body in (a_pod(owner=None), a_pod(spec={"hostNetwork": True}), a_binding(OWN), routers({"hostPID": True})):
        cluster.wait("the policy is in force", lambda body=body: refused(body))
    return run


def a_pod(*, owner: Body | None = {}, spec: Body | None = None) -> Body:  # noqa: B006 - read only
    """What the operator makes; `owner` changes its ownerReference (None: there is none), `spec` its fields."""
    given = deployment()
    template = manifests.template(given, IMAGE)
    body = manifests.pod(given, Revision("abcdef12", 1, "r", "r-uid", template["spec"], template["metadata"]), 0)
    (reference,) = body["metadata"].pop("ownerReferences")
    body["metadata"] |= {"namespace": "team-a"} | ({} if owner is None else {"ownerReferences": [reference | owner]})
    return {**body, "spec": {**body["spec"], **(spec or {})}}


def with_container(**fields: Any) -> Callable[[], Body]:
    def made() -> Body:
        body = a_pod()
        (container,) = body["spec"]["containers"]
        return {**body, "spec": {**body["spec"], "containers": [{**container, **fields}]}}

    return made


def with_the_nodes_disk() -> Body:
    body = a_pod()
    return {**body, "spec": {**body["spec"], "volumes": [*body["spec"]["volumes"], NODE]}}


def of_routing(kind: str) -> Body:
    """What the operator makes of this kind for routing.mode Headrace."""
    given = replace(deployment(), namespace="team-a", routing=Routing(RoutingMode.HEADRACE))
    (body,) = (body for body in routing.bodies(given, RouterParts(IMAGE, f"{RELEASE}-router")) if body["kind"] == kind)
    return body


def routers(spec: Body) -> Body:
    """Routers whose pods have these fields."""
    body = of_routing("Deployment")
    body["spec"]["template"]["spec"] |= spec
    return body


def routers_with_the_nodes_disk() -> Body:
    body = of_routing("Deployment")
    body["spec"]["template"]["spec"]["volumes"].append(NODE)
    return body


# What it may do itself: Kubernetes would let it give that to others. More than that, it would not.
OWN = {"kind": "Role", "name": RELEASE}


def a_binding(role: Body | None = None, account: str | None = None) -> Body:
    body = of_routing("RoleBinding")
    body["roleRef"] |= role or {}
    body["subjects"][0]["name"] = account or body["subjects"][0]["name"]
    return body


NODE = {"name": "node", "hostPath": {"path": "/"}}
MISUSES: dict[str, tuple[Callable[[], Body], str]] = {
    "nobody's pod": (lambda: a_pod(owner=None), "only what an InferenceDeployment owns"),
    "another owner's pod": (
        lambda: a_pod(owner={"apiVersion": "apps/v1", "kind": "ReplicaSet"}),
        "InferenceDeployment owns",
    ),
    "not its controller": (lambda: a_pod(owner={"controller": False}), "InferenceDeployment owns"),
    "the node's disk": (with_the_nodes_disk, "nothing of a node"),
    "the node's network": (lambda: a_pod(spec={"hostNetwork": True}), "namespace of its node"),
    "the node's processes": (lambda: a_pod(spec={"hostPID": True}), "namespace of its node"),
    "privileges": (with_container(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "further capabilities"),
    "a token": (lambda: a_pod(spec={"automountServiceAccountToken": True}), "token of a service account"),
    "routers with an account": (lambda: routers({"serviceAccountName": "admin"}), "but the one of their name"),
    "routers with the node's disk": (routers_with_the_nodes_disk, "routers nothing of a node"),
    "routers with the node's network": (lambda: routers({"hostNetwork": True}), "namespace of its node"),
    "the rights of others": (lambda: a_binding(OWN), "no role but the one of routers"),
    "rights for others": (lambda: a_binding(account="admin"), "service account of the binding's own name"),
    "an account": (lambda: a_pod(spec={"serviceAccountName": "admin"}), "token of a service account"),
}


def test_the_operator_makes_what_it_makes(as_operator: Callable[..., str]) -> None:
    given = replace(deployment(), namespace="team-a")
    kinds = ("ServiceAccount", "RoleBinding", "Deployment", "Service", "PodDisruptionBudget")
    made = (a_pod(), manifests.service(given), manifests.disruption_budget(given), *map(of_routing, kinds))
    for body in made:
        assert "created" in as_operator("create", "-f", "-", body=body)


@pytest.mark.parametrize("name", MISUSES)
def test_a_stolen_token_of_the_operator_is_refused(as_operator: Callable[..., str], name: str) -> None:
    body, words = MISUSES[name]
    with pytest.raises(CommandFailed, match=words):
        as_operator("create", "-f", "-", body=body())


def test_the_operator_deletes_and_edits_nobody_elses_pods(
    cluster: LocalCluster, as_operator: Callable[..., str]
) -> None:
    theirs = a_pod(owner=None)
    theirs["metadata"]["name"] = "theirs"
    cluster.apply(theirs)
    owned = a_pod()["metadata"]["ownerReferences"]
    mine = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "theirs", "ownerReferences": owned}}
    with pytest.raises(CommandFailed, match="only what an InferenceDeployment owns"):
        as_operator("delete", "pod/theirs", "--wait=false")
    with pytest.raises(CommandFailed, match="only what an InferenceDeployment owns"):  # nor makes them its own first
        as_operator("apply", "--server-side", "-f", "-", body=mine)
    cluster.kubectl("delete", "pod", "theirs", "-n", "team-a", "--grace-period=0", "--force")


@pytest.mark.usefixtures("limits", "as_operator")
@pytest.mark.parametrize(
    "policy",
    [
        "headrace-operator",
        *(f"headrace-operator-{each}" for each in ("pods", "routers", "bindings")),
        "headrace-tenants",
    ],
)
def test_the_api_server_finds_nothing_odd_in_a_policys_expressions(cluster: LocalCluster, policy: str) -> None:
    def checked() -> Body | None:
        found = cluster.object("validatingadmissionpolicy", policy)
        status: Body = found.get("status", {})
        return status if status.get("observedGeneration") == found["metadata"]["generation"] else None

    status = cluster.wait("its types are checked", checked)
    assert status.get("typeChecking", {}).get("expressionWarnings", []) == []


# -- `helm test`


def test_helms_test_says_what_is_missing(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.spec_from_file_location("installed", CHART / "files" / "installed.py")
    assert found
    assert found.loader
    installed = importlib.util.module_from_spec(found)
    found.loader.exec_module(installed)
    cluster.apply(
        *(
            hook
            for hook in of_kind(render(), "ServiceAccount", "Role", "RoleBinding")
            if "-test" in hook["metadata"]["name"]
        )
    )
    (tmp_path / "token").write_text(cluster.kubectl("create", "token", "headrace-test", "-n", NAMESPACE).strip())
    authority = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(b64decode(authority))
    monkeypatch.setenv("HEADRACE_SERVICE_ACCOUNT_DIR", str(tmp_path))
    host, _, port = cluster.api.server.removeprefix("https://").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)

    def leads(renewed: str) -> Body:
        spec = {"holderIdentity": "headrace-0", "renewTime": renewed, "leaseDurationSeconds": 10}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "headrace", "namespace": NAMESPACE},
            "spec": spec,
        }

    def refusal() -> str:
        with pytest.raises(OSError) as refused:
            installed.missing(NAMESPACE, "headrace")
        return str(refused.value)

    cluster.wait("its role is in force, and there is no Lease", lambda: "404" in refusal())
    cluster.apply(leads("2020-01-01T00:00:00.000000Z"))
    assert "no operator leads" in installed.missing(NAMESPACE, "headrace")
    now = installed.datetime.now(installed.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    cluster.apply(leads(now))
    assert installed.missing(NAMESPACE, "headrace") is None
    assert "headrace-0 leads" in capsys.readouterr().out
    with pytest.raises(OSError, match="403"):
        installed.missing(NAMESPACE, "another")
