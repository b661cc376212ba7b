"""Who may talk to the API server: static bearer tokens, and the kubeconfig files that carry them."""

import secrets
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

CONTEXT = "headrace-local"


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)


def admin() -> User:
    return User("admin", ("system:masters",))


def node(name: str) -> User:
    """What a kubelet is: the Node authorizer lets it see and change what its own pods need."""
    return User(f"system:node:{name}", ("system:nodes",))


def write_token_file(path: Path, users: Iterable[User]) -> None:
    lines = [f'{user.token},{user.name},{user.name},"{",".join(user.groups)}"' for user in users]
    _write_private(path, "\n".join(lines) + "\n")


def write_kubeconfig(path: Path, server: str, ca: Path, user: User) -> None:
    """A file for KUBECONFIG, readable by its owner only."""
    cluster = {"server": server, "certificate-authority-data": b64encode(ca.read_bytes()).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": user.name, "user": {"token": user.token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user.name, "namespace": "default"}}],
    }
    _write_private(path, yaml.safe_dump(content, sort_keys=False))


def _write_private(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)
