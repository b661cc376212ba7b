"""How keys and certificates come into a pod: Secrets as volumes, so that the kubelet brings every change of them.

Whole folders are mounted, because the kubelet never updates a file that is mounted alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace_operator.auth_fields import Auth

Body = dict[str, Any]
FOLDER = "/etc/headrace"


@dataclass(frozen=True, slots=True)
class _Mount:
    name: str
    secret: str

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.name}"


def _mounts(auth: Auth) -> Iterator[_Mount]:
    if auth.api_keys is not None:
        yield _Mount("api-keys", auth.api_keys.secret)
    if auth.tls is not None:
        yield _Mount("tls", auth.tls)
    if auth.client_ca is not None:
        yield _Mount("client-ca", auth.client_ca.secret)


def volumes(auth: Auth) -> list[Body]:
    return [{"name": mount.name, "secret": {"secretName": mount.secret}} for mount in _mounts(auth)]


def volume_mounts(auth: Auth) -> list[Body]:
    return [{"name": mount.name, "mountPath": mount.folder, "readOnly": True} for mount in _mounts(auth)]


def router_arguments(auth: Auth) -> list[str]:
    """For `headrace route`: its own doors speak as the replicas' do, and ca.crt says who signs for them."""
    tls = f"{FOLDER}/tls"
    own = [f"--tls-cert={tls}/tls.crt", f"--tls-key={tls}/tls.key", f"--replica-ca={tls}/ca.crt"]
    return [] if auth.tls is None else own


def arguments(auth: Auth) -> list[str]:
    """For `headrace serve`. Without keys and client certificates a Service answers whoever reaches it, as all do."""
    return [
        *([] if auth.authenticates else ["--allow-unauthenticated"]),
        *([] if auth.api_keys is None else [f"--api-keys={FOLDER}/api-keys/{auth.api_keys.key}"]),
        *([] if auth.tls is None else [f"--tls-cert={FOLDER}/tls/tls.crt", f"--tls-key={FOLDER}/tls/tls.key"]),
        *([] if auth.client_ca is None else [f"--tls-client-ca={FOLDER}/client-ca/{auth.client_ca.key}"]),
    ]
