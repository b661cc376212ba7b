"""The record of a gate: a body, its digest, and who stands for it with which key.

The digest is over the body as canonical JSON (keys sorted, no spaces), so that reformatting changes nothing. A digest
shows damage; only a signature shows who wrote it.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.model.encoder.sentence import MODULES, listed


@dataclass(frozen=True, slots=True)
class Signers:
    """The owner of any of these keys may stand for a release."""

    keys: tuple[Ed25519PublicKey, ...]
    called: str  # where they come from, for who is refused


def model_digest(directory: Path) -> str:
    """Of all files of a model, by name and content; sha256:HEX. Raises OSError."""
    whole = hashlib.sha256()
    files = _files(directory)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run, and a large model has many files
        for name, content in zip(files, pool.map(_content, files.values()), strict=True):
            whole.update(f"{name}\0{content}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _files(directory: Path) -> dict[str, Path]:
    """By name, in order: those in the folder itself, and in the folders that say how an embedder makes a vector."""
    folders = ["", *(folder for folder in _modules(directory) if folder and (directory / folder).is_dir())]
    found = {
        f"{folder}/{path.name}" if folder else path.name: path
        for folder in folders
        for path in (directory / folder).iterdir()
        if path.is_file()
    }
    return dict(sorted(found.items()))


def _modules(directory: Path) -> list[str]:
    """Folders that sentence-transformers' list names."""
    path = directory / MODULES
    try:
        return [folder for _, folder in listed(path)] if path.exists() else []
    except ModelRefused:  # an embedder with such a list is refused when it is loaded, and others do not read it
        return []


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def private_key(path: Path) -> Ed25519PrivateKey:
    """From PEM without a password. Raises BadFile, OSError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as broken:
        raise BadFile(f"{path}: is no private key in PEM without a password: {broken}") from broken
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile(f"{path}: is no Ed25519 key; make one with: openssl genpkey -algorithm ed25519 -out {path}")
    return key


def sealed(body: Mapping[str, Any], key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """`key` None: a digest alone. A figure that is no number, as a broken model has them, becomes a word."""
    body = _in_json(body)
    content = canonical(body)
    report: dict[str, Any] = {"body": body, "sha256": hashlib.sha256(content).hexdigest()}
    if key is not None:
        report["ed25519"] = base64.b64encode(key.sign(content)).decode()
    return report


def _in_json(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _in_json(each) for name, each in value.items()}
    return [_in_json(each) for each in value] if isinstance(value, list | tuple) else value


def read_report(path: Path) -> dict[str, Any]:
    """Raises BadFile, OSError."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        canonical({"report": report})
    except ValueError as broken:
        raise BadFile(f"{path}: is not JSON: {broken}") from broken
    if not (isinstance(report, dict) and isinstance(report.get("body"), dict) and "sha256" in report):
        raise BadFile(f"{path}: is no report of `headrace gate run`: it has no body and sha256")
    checks = report["body"].get("checks", [])
    if not (isinstance(checks, list) and all(isinstance(check, dict) for check in checks)):
        raise BadFile(f"{path}: is no report of `headrace gate run`: its checks are no list of objects")
    return report


def objections(report: Mapping[str, Any], model: str | None, signers: Signers | None) -> list[str]:
    """Why this report lets nothing through; empty: it does.

    `model`: the digest that it must be about; `signers`: of whom one must have signed it.
    """
    body = report["body"]
    found = [] if is_intact(report) else ["the body is not what its sha256 was made of: it was changed"]
    failed = [check.get("name") for check in body.get("checks", ()) if check.get("passed") is not True]
    if failed or body.get("passed") is not True:
        found.append(f"the gate was not passed: {', '.join(map(str, failed)) or 'it has no checks'}")
    if model is not None and body.get("model_digest") != model:
        found.append(f"it is about another model: {body.get('model_digest')}, not {model}")
    if signers is not None and not any(_is_signed(report, key) for key in signers.keys):
        found.append(f"it was not signed by the owner of {signers.called}")
    return found


def is_intact(report: Mapping[str, Any]) -> bool:
    """Whether the body is what the digest was made of."""
    return bool(hashlib.sha256(canonical(report["body"])).hexdigest() == report["sha256"])


def public_key(path: Path) -> Ed25519PublicKey:
    """From PEM. Raises BadFile, OSError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as broken:
        raise BadFile(f"{path}: is no public key in PEM: {broken}") from broken
    if not isinstance(key, Ed25519PublicKey):
        raise BadFile(f"{path}: is no Ed25519 key; get it with: openssl pkey -in KEY -pubout")
    return key


def public_key_of_line(line: str) -> Ed25519PublicKey:
    """From what stands between the first and the last line of that PEM. Raises BadFile."""
    try:
        key = load_der_public_key(base64.b64decode(line, validate=True))
    except (ValueError, UnsupportedAlgorithm) as broken:
        raise BadFile(f"is no public key: {broken}") from broken
    if not isinstance(key, Ed25519PublicKey):
        raise BadFile("is no Ed25519 key")
    return key


def _is_signed(report: Mapping[str, Any], key: Ed25519PublicKey) -> bool:
    try:
        key.verify(base64.b64decode(str(report.get("ed25519", "")), validate=True), canonical(report["body"]))
    except (InvalidSignature, ValueError):
        return False
    return True
