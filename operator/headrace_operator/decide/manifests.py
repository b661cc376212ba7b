"""From the custom resource to the bodies of its children, for server-side apply. The server's command line is a
contract with `headrace serve`; tests/contract holds both sides to it."""

import math
from collections.abc import Sequence
from typing import Any

from headrace_operator.cache_fields import Caches
from headrace_operator.decide import adapter_mounts, auth_mounts, gate_mounts, model_volume, tenant_mounts
from headrace_operator.decide.placement import placement
from headrace_operator.decide.ports import ADMIN_PORT, GRPC_PORT, HTTP_PORT
from headrace_operator.decide.values import Revision, Role
from headrace_operator.service import InferenceDeployment, Task
from headrace_operator.speculative_fields import Speculative

GROUP = "headrace.dev"
VERSION = "v1alpha1"
KIND = "InferenceDeployment"
DEPLOYMENT_LABEL = f"{GROUP}/deployment"
ROUTABLE_LABEL = f"{GROUP}/routable"
REVISION_LABEL = f"{GROUP}/revision"
ORDINAL_LABEL = f"{GROUP}/ordinal"
ROLE_LABEL = f"{GROUP}/role"
UNROUTED_ANNOTATION = f"{GROUP}/unrouted-at"
DRAIN_REQUESTED_ANNOTATION = f"{GROUP}/drain-requested"  # written by a person: replace this pod, then drain it
CONTAINER = "server"
ADMIN = "admin"  # the name of the port that probes, scrapes and drains go to
EXIT_SLACK = 10  # seconds beyond the drain timeout before the kubelet kills
SLOWEST_START = 1800  # seconds that a start-up may take: hundreds of gigabytes from a slow volume

Body = dict[str, Any]
# What the restricted Pod Security Standard asks for.
POD_SECURITY: Body = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Body = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod(deployment: InferenceDeployment, revision: Revision, ordinal: int, role: Role = Role.REPLICA) -> Body:
    """From the record of its revision, whatever the manifest or a newer operator would say today."""
    name = f"{deployment.name}-{revision.hash[:5]}-{ordinal}"
    labels = {
        **_labels(deployment),
        DEPLOYMENT_LABEL: deployment.name,
        **role_labels(role),
        REVISION_LABEL: revision.hash,
        ORDINAL_LABEL: str(ordinal),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **revision.metadata,
            **metadata(deployment, name),
            "labels": {**revision.metadata.get("labels", {}), **labels},
        },
        "spec": dict(revision.spec),
    }


def role_labels(role: Role) -> dict[str, str]:
    """What a pod is kept for, and hence whether the Service routes to it."""
    is_routed = role in {Role.REPLICA, Role.CANARY}
    return {ROUTABLE_LABEL: "true" if is_routed else "false", ROLE_LABEL: str(role)}


def record_metadata(deployment: InferenceDeployment, revision: str) -> Body:
    """Of the record of a revision, by its hash."""
    labels = {**_labels(deployment), DEPLOYMENT_LABEL: deployment.name, REVISION_LABEL: revision}
    return {**metadata(deployment, f"{deployment.name}-{revision}"), "labels": labels}


def service(deployment: InferenceDeployment) -> Body:
    """Routes to what is ready and not draining. Drain and standby are a label change. The admin port is not in it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata(deployment, deployment.name), "labels": _labels(deployment)},
        "spec": {
            "selector": {DEPLOYMENT_LABEL: deployment.name, ROUTABLE_LABEL: "true"},
            "ports": ports(deployment),
        },
    }


def ports(deployment: InferenceDeployment) -> list[Body]:
    """Of a Service, for gRPC and HTTP."""
    over_tls = deployment.auth.tls is not None
    return [
        {
            "name": "grpc",
            "port": GRPC_PORT,
            "targetPort": "grpc",
            "protocol": "TCP",
            "appProtocol": "https" if over_tls else "kubernetes.io/h2c",
        },
        {
            "name": "http",
            "port": HTTP_PORT,
            "targetPort": "http",
            "protocol": "TCP",
            "appProtocol": "https" if over_tls else "http",
        },
    ]


def disruption_budget(deployment: InferenceDeployment) -> Body:
    """How many routed replicas an eviction has to leave.

    With minReplicas 1 and one replica, `kubectl drain` has to wait, and not for long: the operator sees the cordon and
    orders a replacement, and once that is Ready the old pod is unrouted, so that the budget counts it no more. While
    the operator is down, the drain goes on to wait; `kubectl drain --disable-eviction` passes it by.
    """
    bounds = [deployment.scaling.min_replicas, *(schedule.min_replicas for schedule in deployment.scaling.schedules)]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {**metadata(deployment, deployment.name), "labels": _labels(deployment)},
        "spec": {
            # The least that any schedule allows: above what runs, it would forbid every eviction for hours.
            "minAvailable": min(bound for bound in bounds if bound is not None),
            "selector": {"matchLabels": {DEPLOYMENT_LABEL: deployment.name, ROUTABLE_LABEL: "true"}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",  # a pod that serves nobody must not hold a node
        },
    }


def selector(deployment: InferenceDeployment) -> str:
    """What the scale subresource shows, so that an HPA finds the pods."""
    return f"{DEPLOYMENT_LABEL}={deployment.name}"


def metadata(deployment: InferenceDeployment, name: str) -> Body:
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": deployment.name,
        "uid": deployment.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": deployment.namespace, "ownerReferences": [owner]}


def _labels(deployment: InferenceDeployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "headrace-server",
        "app.kubernetes.io/instance": deployment.name,
        "app.kubernetes.io/managed-by": "headrace",
    }


def template(deployment: InferenceDeployment, image: str, gate_keys: Sequence[str] = ()) -> Body:
    """What a new revision records. `image` runs where the manifest names none.

    `gate_keys`: public, of those who may release models.
    """
    own = {"labels": dict(deployment.pod.labels), "annotations": dict(deployment.pod.annotations)}
    metadata = {kind: names for kind, names in own.items() if names}
    return {"metadata": metadata, "spec": pod_spec(deployment, image, gate_keys)}


def pod_spec(deployment: InferenceDeployment, image: str, gate_keys: Sequence[str] = ()) -> Body:
    return {
        "restartPolicy": "Always",
        "automountServiceAccountToken": False,  # the server never talks to the API
        "terminationGracePeriodSeconds": math.ceil(deployment.drain_timeout) + EXIT_SLACK,
        "securityContext": POD_SECURITY,
        "containers": [_container(deployment, deployment.image or image, gate_keys)],
        **placement(deployment.pod, {DEPLOYMENT_LABEL: deployment.name}),
        "volumes": [
            model_volume.volume(deployment.model.source),
            *adapter_mounts.volumes(deployment.model),
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # the default 64 MiB breaks torch's workers
            *auth_mounts.volumes(deployment.auth),
            *tenant_mounts.volumes(deployment.tenants),
            *gate_mounts.volumes(deployment.model.gate_report),
        ],
    }


def _container(deployment: InferenceDeployment, image: str, gate_keys: Sequence[str]) -> Body:
    policy = deployment.pod.pull_policy
    return {
        "name": CONTAINER,
        "image": image,
        **({"imagePullPolicy": policy} if policy else {}),
        "command": ["headrace"],
        "args": arguments(deployment, gate_keys),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},  # the bearer of POST /drain
            {"name": "HEADRACE_TERMINATION_LOG", "value": "/dev/termination-log"},
            *({"name": name, "value": value} for name, value in _environment(deployment).items()),
        ],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": ADMIN, "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # who ends without a word is told by the end of its log
        "startupProbe": _probe("/ready", periodSeconds=1, failureThreshold=SLOWEST_START),
        "readinessProbe": _probe("/ready", periodSeconds=1, failureThreshold=2),
        "livenessProbe": _probe("/health", periodSeconds=10, failureThreshold=6),
        "resources": _resources(deployment),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": model_volume.NAME, "mountPath": model_volume.MOUNT, "readOnly": True},
            *adapter_mounts.volume_mounts(deployment.model),
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *auth_mounts.volume_mounts(deployment.auth),
            *tenant_mounts.volume_mounts(deployment.tenants),
            *gate_mounts.volume_mounts(deployment.model.gate_report),
        ],
    }


def _environment(deployment: InferenceDeployment) -> dict[str, str]:
    """What the libraries below the server read."""
    cpu = deployment.resources.cpu or ""
    # Without it torch starts a thread for every core of the node, and they fight for the few that the pod was given.
    threads = {"OMP_NUM_THREADS": cpu} if deployment.model.device == "cpu" and cpu.isdecimal() else {}
    return threads | dict(deployment.pod.env)


def arguments(deployment: InferenceDeployment, gate_keys: Sequence[str]) -> list[str]:
    """The words after `headrace`."""
    model, batching = deployment.model, deployment.batching
    devices = deployment.resources.gpus
    return [
        "serve",
        *model_volume.arguments(model.source),
        f"--name={deployment.name}",
        "--host=$(POD_IP)",
        f"--grpc-port={GRPC_PORT}",
        f"--http-port={HTTP_PORT}",
        f"--admin-port={ADMIN_PORT}",
        # Not said where it is the server's default: a word more would replace all pods of every deployment.
        *([f"--task={model.task}"] if model.task is not Task.GENERATE else []),
        f"--device={model.device}",
        f"--dtype={model.dtype}",
        *([] if model.quantization == "none" else [f"--quantization={model.quantization}"]),
        *([] if model.kv_cache_dtype == "auto" else [f"--kv-cache-dtype={model.kv_cache_dtype}"]),
        *([] if model.speculative is None else _speculative_arguments(model.speculative)),
        *(["--batch-invariant"] if model.batch_invariant else []),
        *adapter_mounts.arguments(model),
        f"--max-running={batching.max_running}",
        f"--max-tokens-per-step={batching.max_tokens_per_step}",
        f"--max-waiting={batching.max_waiting}",
        *([] if batching.window is None else [f"--batching-window={batching.window:g}"]),
        *([] if batching.offline_reserve is None else [f"--offline-reserve={batching.offline_reserve:g}"]),
        f"--drain-timeout={deployment.drain_timeout:g}",
        *([f"--tensor-parallel-size={devices}"] if devices > 1 else []),
        *_cache_arguments(deployment.caches),
        *auth_mounts.arguments(deployment.auth),
        *tenant_mounts.arguments(deployment.tenants),
        *gate_mounts.arguments(model.gate_report, gate_keys),
    ]


def _speculative_arguments(wanted: Speculative) -> list[str]:
    given = {
        "draft-model": None if wanted.draft_model is None else model_volume.place(wanted.draft_model),
        "speculative-tokens": wanted.tokens,
        "speculative-max-batch": wanted.max_batch,
    }
    return [
        f"--speculative={wanted.method}",
        *(f"--{option}={value}" for option, value in given.items() if value is not None),
    ]


def _cache_arguments(wanted: Caches) -> list[str]:
    given = {
        "response-cache-mib": wanted.response_mib,
        "embedding-cache-mib": wanted.embedding_mib,
        "cache-ttl": wanted.ttl,
    }
    return [f"--{option}={value:g}" for option, value in given.items() if value is not None]


def _probe(path: str, **numbers: int) -> Body:
    return {"httpGet": {"path": path, "port": ADMIN}, "timeoutSeconds": 5, **numbers}


def _resources(deployment: InferenceDeployment) -> Body:
    wanted = deployment.resources
    requests = {name: value for name, value in (("cpu", wanted.cpu), ("memory", wanted.memory)) if value}
    gpus = {"nvidia.com/gpu": str(wanted.gpus)} if wanted.gpus else {}
    resources = {"requests": {**requests, **gpus}, "limits": gpus}
    return {kind: values for kind, values in resources.items() if values}
