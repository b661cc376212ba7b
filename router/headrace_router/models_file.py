"""The file of `--models`: several models behind one address, and which request goes to which. Read once, at start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace_router.errors import BadArguments
from headrace_router.pick.rules import DEFAULT, FALLBACK, Fallback, Rule, Rules, Score

Body = Mapping[str, Any]
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")  # it stands in a header between spaces, and in names of files


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as the file names it."""

    name: str
    deployment: str | None
    replicas: tuple[str, ...]
    cost_per_hour: float  # of one replica, in whatever currency
    replica_ca: Path | None  # as --replica-ca, for this model; from the file's folder
    replica_name: str | None  # as --replica-name


@dataclass(frozen=True, slots=True)
class ModelsFile:
    models: tuple[Listed, ...]
    rules: Rules


def read(path: Path) -> ModelsFile:
    """Raises BadArguments that names the field."""
    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArguments(f"--models {path} cannot be read: {error}") from error
    try:
        return parsed(body)
    except ValueError as error:
        raise BadArguments(f"--models {path}: {error}") from error


def parsed(body: object) -> ModelsFile:
    """Raises ValueError that names the field."""
    top = _fields(body, "the file", {"models", "rules", "default", "fallback"})
    models = tuple(_model(name, each) for name, each in _mapping(top.get("models"), "models").items())
    if not models:
        raise ValueError("models is empty; name at least one model")
    names = {model.name for model in models}
    rules = tuple(_rule(each, f"rules[{n}]", names) for n, each in enumerate(_sequence(top.get("rules", []), "rules")))
    default = _known(top.get("default"), "default", names)
    fallback = _fallback(top["fallback"], names) if "fallback" in top else None
    return ModelsFile(models, Rules(rules, default, fallback))


def _model(name: object, body: object) -> Listed:
    at = f"models.{name}"
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"{at}: a model's name must be at most 128 letters, digits, '.', '_' and '-'")
    fields = _fields(body, at, {"deployment", "replicas", "costPerHour", "replicaCa", "replicaName"})
    replicas = tuple(_text(each, f"{at}.replicas[{n}]") for n, each in
                     enumerate(_sequence(fields.get("replicas", []), f"{at}.replicas")))  # fmt: skip
    if ("deployment" in fields) == bool(replicas):
        raise ValueError(f"{at}: give either deployment (NAMESPACE/NAME) or replicas (ADDRESS:GRPC_PORT:HTTP_PORT)")
    cost = _number(fields.get("costPerHour", 0), f"{at}.costPerHour")
    if cost < 0:
        raise ValueError(f"{at}.costPerHour is {cost:g}; must be 0 or more")
    deployment, authority, certified = (
        _text(fields[key], f"{at}.{key}") if key in fields else None
        for key in ("deployment", "replicaCa", "replicaName")
    )
    return Listed(name, deployment, replicas, cost, None if authority is None else Path(authority), certified)


def _rule(body: object, at: str, names: set[str]) -> Rule:
    conditions = {"header", "tenant", "requestBytes", "score"}
    fields = _fields(body, at, conditions | {"name", "model"})
    if not conditions & set(fields):
        raise ValueError(f"{at} has no condition; give one of {', '.join(sorted(conditions))}, or use default")
    name = _text(fields.get("name"), f"{at}.name")
    if name in (DEFAULT, FALLBACK):
        raise ValueError(f"{at}.name is {name!r}, which is how requests are counted that no rule names; choose another")
    return Rule(
        name=name,
        model=_known(fields.get("model"), f"{at}.model", names),
        header=_header(fields["header"], f"{at}.header") if "header" in fields else None,
        tenant=_text(fields["tenant"], f"{at}.tenant") if "tenant" in fields else None,
        request_bytes=_bytes(fields["requestBytes"], f"{at}.requestBytes") if "requestBytes" in fields else None,
        score=_score(fields["score"], f"{at}.score") if "score" in fields else None,
    )


def _header(body: object, at: str) -> tuple[str, str]:
    items = list(_mapping(body, at).items())
    if len(items) != 1:
        raise ValueError(f"{at} names {len(items)} headers; give one, as in {{x-tier: premium}}")
    return _text(items[0][0], at).lower(), _text(items[0][1], f"{at}.{items[0][0]}")


def _bytes(value: object, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{at} is {value!r}; must be a whole number of bytes, at least 1")
    return value


def _score(body: object, at: str) -> Score:
    fields = _fields(body, at, {"header", "field", "atLeast"})
    if ("header" in fields) == ("field" in fields):
        raise ValueError(f"{at}: give either header or field, where the score stands")
    return Score(
        at_least=_number(fields.get("atLeast"), f"{at}.atLeast"),
        header=_text(fields["header"], f"{at}.header").lower() if "header" in fields else None,
        field=_text(fields["field"], f"{at}.field") if "field" in fields else None,
    )


def _fallback(body: object, names: set[str]) -> Fallback:
    fields = _fields(body, "fallback", {"from", "to", "meanLogprob"})
    origin, to = (_known(fields.get(key), f"fallback.{key}", names) for key in ("from", "to"))
    if origin == to:
        raise ValueError(f"fallback.to is {to!r}, as fallback.from is; must be another model")
    threshold = _number(fields.get("meanLogprob"), "fallback.meanLogprob")
    if threshold >= 0:
        raise ValueError(f"fallback.meanLogprob is {threshold:g}; must be below 0: a log-probability in nats")
    return Fallback(origin, to, threshold)


def _fields(body: object, at: str, known: set[str]) -> Body:
    fields = _mapping(body, at)
    if unknown := set(fields) - known:
        raise ValueError(f"{at} has no field {sorted(map(str, unknown))[0]!r}; there are {', '.join(sorted(known))}")
    return fields


def _mapping(body: object, at: str) -> Body:
    if not isinstance(body, dict):
        raise ValueError(f"{at} is {body!r}; must be fields with values")  # noqa: TRY004 - one kind of error of the file
    return body


def _sequence(body: object, at: str) -> list[Any]:
    if not isinstance(body, list):
        raise ValueError(f"{at} is {body!r}; must be a list")  # noqa: TRY004 - likewise
    return body


def _text(value: object, at: str) -> str:
    if not (isinstance(value, str) and value):
        raise ValueError(f"{at} is {value!r}; must be text")
    return value


def _number(value: object, at: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{at} is {value!r}; must be a number")  # noqa: TRY004 - likewise
    return float(value)


def _known(value: object, at: str, names: set[str]) -> str:
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{at} is {value!r}; must be one of {', '.join(sorted(names))}")
    return value
