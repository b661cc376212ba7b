"""Who wrote which field of an object, from what the API server keeps in metadata.managedFields."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Body = Mapping[str, Any]
Entry = Mapping[str, Any]


def entries(body: Body) -> Sequence[Entry]:
    """One a manager, operation and subresource."""
    found: Sequence[Entry] = body["metadata"].get("managedFields", ())
    return found


def owners(body: Body, path: Sequence[str]) -> set[str]:
    """Managers that wrote the field at `path`, such as ("spec", "replicas")."""
    return {str(entry.get("manager", "unknown")) for entry in entries(body) if _has(entry.get("fieldsV1", {}), path)}


def _has(fields: Mapping[str, Any], path: Sequence[str]) -> bool:
    for name in path:
        if f"f:{name}" not in fields:
            return False
        fields = fields[f"f:{name}"]
    return True


def leaves(fields: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every written field of a fieldsV1 tree, such as spec.containers[server].image."""
    inner = {name: below for name, below in fields.items() if name != "."}
    if not inner and path:
        yield path
    for name, below in inner.items():
        yield from leaves(below, path + _step(name, is_first=not path))


def _step(name: str, *, is_first: bool) -> str:
    """f:image -> .image; k:{"name":"server"} -> [server]; v:"x" -> [x]."""
    kind, _, rest = name.partition(":")
    if kind == "f":
        return rest if is_first else f".{rest}"
    if kind == "k":
        values: Mapping[str, Any] = json.loads(rest)
        return f"[{','.join(str(value) for value in values.values())}]"
    return f"[{rest.strip(chr(34))}]"
