"""Command, arguments and environment of a container, as values: $(VAR) expansion, references, replaced mount paths."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]
REFERENCE = re.compile(r"\$\$|\$\((?P<name>[-._a-zA-Z][-._a-zA-Z0-9]*)\)")


@dataclass(frozen=True, slots=True)
class Facts:
    """What references may name."""

    pod: Body
    node: str
    pod_ip: str
    host_ip: str
    config: Mapping[tuple[str, str], Mapping[str, str]]  # ("configMap" | "secret", name) -> data


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; an unknown name stays as it is, as in Kubernetes."""

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        return variables.get(match["name"], match[0])

    return REFERENCE.sub(value, text)


def relocate(text: str, mounts: Mapping[str, str]) -> str:
    """Replace every mount path that begins a path: at the start, or after `=`, `:` or `,`. The longest mount wins.

    In one pass: the folder that stands for one mount may itself lie below another one's path.
    """
    if not mounts:
        return text
    places = {path.rstrip("/"): place for path, place in mounts.items()}
    paths = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))
    return re.sub(rf"(^|[=:,])({paths})(?=/|$|[:,])", lambda match: match[1] + places[match[2]], text)


def variables(container: Body, facts: Facts) -> dict[str, str]:
    """The container's own environment, in order, each value expanded by those before it. Raises LookupError."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        kind = "configMap" if "configMapRef" in source else "secret"
        reference = source[f"{kind}Ref"]
        data = _data(kind, reference, facts)
        found |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            value = _referenced(entry["valueFrom"], container, facts)
        else:
            value = expand(entry.get("value", ""), found)
        if value is not None:
            found[entry["name"]] = value
    return found


def _referenced(source: Body, container: Body, facts: Facts) -> str | None:
    if "fieldRef" in source:
        return field(source["fieldRef"]["fieldPath"], facts)
    if "resourceFieldRef" in source:
        return _resource(source["resourceFieldRef"]["resource"], container)
    for kind in ("configMap", "secret"):
        if reference := source.get(f"{kind}KeyRef"):
            value = _data(kind, reference, facts).get(reference["key"])
            if value is None and not reference.get("optional"):
                raise LookupError(f"{kind} {reference['name']} has no key {reference['key']}")
            return value
    raise LookupError(f"unknown reference: {', '.join(source)}")


def _data(kind: str, reference: Body, facts: Facts) -> Mapping[str, str]:
    found = facts.config.get((kind, reference["name"]))
    if found is None and not reference.get("optional"):
        raise LookupError(f"{kind} {reference['name']} not found")
    return found or {}


def field(path: str, facts: Facts) -> str:
    """What the downward API gives for a field path. Raises LookupError for one that it does not know."""
    metadata, spec = facts.pod["metadata"], facts.pod["spec"]
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": facts.host_ip,
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
    }
    if path in known:
        return str(known[path])
    match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if not match:
        raise LookupError(f"unknown fieldPath {path}")
    return str(metadata.get(match[1], {}).get(match[2], ""))


def _resource(name: str, container: Body) -> str:
    kind, _, resource = name.partition(".")
    return str(container.get("resources", {}).get(kind, {}).get(resource, "0"))


def command_line(container: Body, own: Mapping[str, str], mounts: Mapping[str, str]) -> list[str]:
    """Command and arguments, expanded and relocated. Raises LookupError without a command."""
    words: Iterable[str] = [*container.get("command", []), *container.get("args", [])]
    if not container.get("command"):
        raise LookupError(f"container {container['name']}: no command; the local cluster's images have no entry point")
    return [relocate(expand(word, own), mounts) for word in words]
