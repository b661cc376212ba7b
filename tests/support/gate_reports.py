"""Reports of the release gate that nobody measured, and keys to sign them with: for what happens to a report later."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from headrace_server.gate.report import model_digest, private_key, sealed

BODY = {"passed": True, "model_digest": "sha256:1", "checks": [{"name": "Quality", "passed": True}]}


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """PEM, as openssl writes it: private, public."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def line(public: Path) -> str:
    """What an operator and a server are told of a public key."""
    _, within, _ = public.read_text().splitlines()
    return within


def passed(model: Path, key: Path | None, *options: str, **changes: Any) -> str:
    """That this model was measured with these options, and passed."""
    about = {"model_digest": model_digest(model), "serve_options": list(options)}
    return json.dumps(sealed({**BODY, **about, **changes}, None if key is None else private_key(key)))
