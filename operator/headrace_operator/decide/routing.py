"""What `spec.routing` asks for beside the Service, as bodies for server-side apply: routers, or an InferencePool.

The routers' command line is a contract with `headrace route`; tests/contract holds both sides to it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from headrace_operator.auth_fields import Auth
from headrace_operator.decide import auth_mounts, manifests
from headrace_operator.decide.actions import Action, ApplyRouting, DeleteRouting
from headrace_operator.decide.manifests import DEPLOYMENT_LABEL, GROUP, ROUTABLE_LABEL, Body
from headrace_operator.decide.ports import ADMIN_PORT, GRPC_PORT, HTTP_PORT
from headrace_operator.decide.reasons import Health
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.values import Observed, RouterState
from headrace_operator.routing_fields import ModelRouters, RoutingMode
from headrace_operator.service import InferenceDeployment

ROUTER_LABEL = f"{GROUP}/router"  # on a router's pod: the InferenceDeployment that it is for
POOL = "InferencePool"
POOL_API = "inference.networking.k8s.io"
IDENTITY = "/var/run/secrets/kubernetes.io/serviceaccount"
# The router's own --linger 3, --patience 300, 5 for its Envoy, and slack before the kubelet kills.
GRACE = 330  # seconds
NO_IMAGE = "the operator was started without --router-image (the chart's router.image), and cannot run routers"
NO_POOLS = (
    f"the API server knows no InferencePool ({POOL_API}/v1): install the CRDs of the Gateway API Inference Extension"
)


@dataclass(frozen=True, slots=True)
class RouterParts:
    """What the operator was told of routers."""

    image: str | None = None
    role: str = "headrace-router"  # a ClusterRole with what a router may read


@dataclass(frozen=True, slots=True)
class Child:
    """An object that a deployment owns."""

    kind: str
    name: str
    uid: str
    role: str = ""  # that a RoleBinding gives


def bodies(deployment: InferenceDeployment, parts: RouterParts) -> list[Body]:
    """In the order in which they are needed. None with mode Service, or without an image."""
    match deployment.routing.mode:
        case RoutingMode.HEADRACE if parts.image is not None:
            return [
                _service_account(deployment),
                _role_binding(deployment, parts.role),
                _routers(deployment, parts.image),
                _service(deployment),
                _disruption_budget(deployment),
            ]
        case RoutingMode.GATEWAY:
            return [_pool(deployment)]
        case _:
            return []


def stale(deployment: InferenceDeployment, parts: RouterParts, children: Iterable[Child]) -> list[Child]:
    """What another `spec.routing` had made, and what gives another role than ours."""
    wanted = {(body["kind"], body["metadata"]["name"]) for body in bodies(deployment, parts)}
    wanted |= {("Service", deployment.name), ("PodDisruptionBudget", deployment.name)}
    return [child for child in children if (child.kind, child.name) not in wanted or _gives_another_role(child, parts)]


def _gives_another_role(child: Child, parts: RouterParts) -> bool:
    """As after the chart was installed again under another name. No binding can be changed to another role."""
    return child.role not in ("", parts.role)


def plan(
    deployment: InferenceDeployment, parts: RouterParts, children: Iterable[Child], *, is_due: bool
) -> list[Action]:
    """`children`: what of these kinds is there. `is_due`: what is asked for has to be written (again)."""
    old = stale(deployment, parts, children)
    in_the_way = [child for child in old if _gives_another_role(child, parts)]
    made = [ApplyRouting(body) for body in bodies(deployment, parts)] if is_due or in_the_way else []
    return [*_removed(in_the_way), *made, *_removed(child for child in old if child not in in_the_way)]


def _removed(children: Iterable[Child]) -> list[DeleteRouting]:
    return [DeleteRouting(child.kind, child.name, child.uid) for child in children]


def refusal(action: ApplyRouting | DeleteRouting, status: int, said: str) -> str:
    """Why the API server did not do it; `status` of HTTP, and what it `said`."""
    if isinstance(action, DeleteRouting):
        return f"{action.kind} {action.name} cannot be removed: {said}"
    if action.body["kind"] == POOL and status == HTTPStatus.NOT_FOUND:
        return NO_POOLS
    return f"{action.body['kind']} {action.body['metadata']['name']} cannot be written: {said}"


def trouble(deployment: InferenceDeployment, parts: RouterParts, refused: str | None) -> str | None:
    """Why what is asked for is not there. `refused`: what the API server said at the last try."""
    lacks_image = deployment.routing.mode is RoutingMode.HEADRACE and parts.image is None
    return NO_IMAGE if lacks_image else refused


def readiness(
    deployment: InferenceDeployment, routers: Sequence[RouterState], refused: str | None
) -> tuple[bool, Health, str] | None:
    """What the condition RoutingReady says; None where the Service is the whole way."""
    routing = deployment.routing
    if routing.mode is RoutingMode.SERVICE and not routing.model_routers:
        return None
    if refused is not None:
        return False, Health.ROUTING_REFUSED, refused
    if routing.mode is RoutingMode.GATEWAY:
        return True, Health.POOL_APPLIED, f"{POOL} {deployment.name} is applied; its own status says who accepts it"
    told = [_own(deployment, routers)] if routing.spreads else []
    told += [_group(group, routers) for group in routing.model_routers]
    message = "; ".join(words for _, words in told)
    if all(is_ready for is_ready, _ in told):
        return True, Health.ROUTERS_READY, message
    return False, Health.NO_ROUTER_READY, message


def _own(deployment: InferenceDeployment, routers: Sequence[RouterState]) -> tuple[bool, str]:
    """Is one of its own ready? And what there is to say of them."""
    own = [router for router in routers if not router.group]
    ready = sum(router.is_ready for router in own)
    words = f"{ready} of {deployment.routing.replicas} routers are ready; clients use the Service {name(deployment)}"
    return ready > 0, _with_first_message(words, own)


def _group(group: ModelRouters, routers: Sequence[RouterState]) -> tuple[bool, str]:
    """Likewise of model routers."""
    found = [router for router in routers if router.group == str(group)]
    ready = sum(router.is_ready for router in found)
    if not found:
        words = f"no model router of {group} is seen: the chart's modelRouters runs them where the operator watches"
        return False, words
    words = f"{ready} of {len(found)} model routers of {group} are ready; clients use their Service {group.label}"
    return ready > 0, _with_first_message(words, found)


def _with_first_message(words: str, routers: Sequence[RouterState]) -> str:
    return "; ".join([words, *(f"{router.name}: {router.message}" for router in routers if router.message)][:2])


def guidance(deployment: InferenceDeployment, observed: Observed, progress: Progress | None) -> Body | None:
    """What routers read in status.routing: the share of requests that a revision on trial gets, or hears copies of.

    Both keys, each time: a merge patch would leave what is missing as it stood.
    """
    policy = deployment.rollout.canary
    if progress is None or progress.state is not State.TRIAL:
        return None
    if progress.is_shadow:
        even = min(1.0, policy.replicas / max(1, len(observed.ready)))  # as much for each pod as a replica has to do
        return {"shares": [], "mirror": {"share": _percent(policy.share or math.ceil(even * 100) / 100)}}
    if policy.share is None:
        return None
    return {"shares": [{"revision": progress.updated, "share": _percent(policy.share)}], "mirror": {"share": "0%"}}


def _percent(share: float) -> str:
    return f"{share:.10%}".rstrip("0%").rstrip(".") + "%"


def name(deployment: InferenceDeployment) -> str:
    """Of everything that belongs to the routers."""
    return f"{deployment.name}-router"


def _metadata(deployment: InferenceDeployment, of: str) -> Body:
    return {**manifests.metadata(deployment, of), "labels": _labels(deployment)}


def _labels(deployment: InferenceDeployment) -> dict[str, str]:
    return {**_selector(deployment), "app.kubernetes.io/managed-by": "headrace"}


def _selector(deployment: InferenceDeployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": "headrace-router", "app.kubernetes.io/instance": deployment.name}


def _service_account(deployment: InferenceDeployment) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(deployment, name(deployment)),
        "automountServiceAccountToken": False,  # the routers' pods ask for a short-lived token themselves
    }


def _role_binding(deployment: InferenceDeployment, role: str) -> Body:
    own = {"kind": "ServiceAccount", "name": name(deployment), "namespace": deployment.namespace}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(deployment, name(deployment)),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [own],
    }


def _routers(deployment: InferenceDeployment, image: str) -> Body:
    labels = {**_labels(deployment), ROUTER_LABEL: deployment.name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deployment, name(deployment)),
        "spec": {
            "replicas": deployment.routing.replicas,
            "selector": {"matchLabels": _selector(deployment)},
            # A router that goes serves on while another comes: never fewer than were asked for.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(deployment, image)},
        },
    }


def _pod_spec(deployment: InferenceDeployment, image: str) -> Body:
    pull_secrets = [{"name": secret} for secret in deployment.pod.pull_secrets]
    return {
        "serviceAccountName": name(deployment),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": manifests.POD_SECURITY,
        **({"imagePullSecrets": pull_secrets} if pull_secrets else {}),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(deployment)},
            }
        ],
        "containers": [_container(deployment, image)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, _identity(), *auth_mounts.volumes(_certificates(deployment))],
    }


def _container(deployment: InferenceDeployment, image: str) -> Body:
    return {
        "name": "router",
        "image": image,
        "command": ["headrace"],
        "args": arguments(deployment),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HEADRACE_SERVICE_ACCOUNT_DIR", "value": IDENTITY},
        ],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": manifests.ADMIN, "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it ended, for the condition
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": manifests.ADMIN}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": manifests.ADMIN}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": manifests.CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # the list of replicas, which Envoy reads
            {"name": "identity", "mountPath": IDENTITY, "readOnly": True},
            *auth_mounts.volume_mounts(_certificates(deployment)),
        ],
    }


def arguments(deployment: InferenceDeployment) -> list[str]:
    """The words after `headrace`."""
    hold = deployment.routing.hold
    return [
        "route",
        f"--deployment={deployment.namespace}/{deployment.name}",
        "--host=$(POD_IP)",
        f"--grpc-port={GRPC_PORT}",
        f"--http-port={HTTP_PORT}",
        f"--admin-port={ADMIN_PORT}",
        f"--hold-requests={hold.requests}",
        f"--hold-seconds={hold.timeout:g}",
        *auth_mounts.router_arguments(deployment.auth),
    ]


def _certificates(deployment: InferenceDeployment) -> Auth:
    """Of all that guards the replicas, a router needs these alone: API keys pass through it."""
    return Auth(tls=deployment.auth.tls)


def _identity() -> Body:
    """A short-lived token and the API server's certificate."""
    return {
        "name": "identity",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]
        },
    }


def _service(deployment: InferenceDeployment) -> Body:
    """The ports of the Service that replicas have, so that a client changes a name and nothing else."""
    grpc, http = manifests.ports(deployment)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(deployment, name(deployment)),
        "spec": {
            "selector": _selector(deployment),
            "ports": [grpc, http],
        },
    }


def _disruption_budget(deployment: InferenceDeployment) -> Body:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(deployment, name(deployment)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(deployment)}},
    }


def _pool(deployment: InferenceDeployment) -> Body:
    picker = deployment.routing.endpoint_picker
    assert picker is not None, "mode GatewayInferencePool has one"
    return {
        "apiVersion": f"{POOL_API}/v1",
        "kind": POOL,
        "metadata": _metadata(deployment, deployment.name),
        "spec": {
            "selector": {"matchLabels": {DEPLOYMENT_LABEL: deployment.name, ROUTABLE_LABEL: "true"}},
            "targetPorts": [{"number": HTTP_PORT}],
            "endpointPickerRef": {
                "name": picker.name,
                "port": {"number": picker.port},
                "failureMode": picker.failure_mode,
            },
        },
    }
