"""How the file of tenants comes into a pod: a ConfigMap as a volume. The server reads it when it starts."""

from typing import Any

from headrace_operator.tenant_fields import Tenants

Body = dict[str, Any]
NAME = "tenants"
FOLDER = "/etc/headrace/tenants"


def volumes(tenants: Tenants) -> list[Body]:
    return [] if tenants.config_map is None else [{"name": NAME, "configMap": {"name": tenants.config_map}}]


def volume_mounts(tenants: Tenants) -> list[Body]:
    return [] if tenants.config_map is None else [{"name": NAME, "mountPath": FOLDER, "readOnly": True}]


def arguments(tenants: Tenants) -> list[str]:
    """For `headrace serve`."""
    return [
        *([] if tenants.config_map is None else [f"--tenants={FOLDER}/{tenants.key}"]),
        *(["--trust-tenant-header"] if tenants.trust_header else []),
    ]
