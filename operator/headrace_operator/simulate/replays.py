"""`headrace replay`: every decision that a status recorded, decided again; with --set, by another policy.

Exit status 3 when a record and its computation disagree.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from headrace_operator.errors import InvalidRecord, OperatorError
from headrace_operator.tools.replay import Replay
from headrace_operator.tools.replay import replay as decided_again
from headrace_operator.tools.table import table

BAD_INPUT, DISAGREES = 2, 3  # exit statuses
RECORDED = ("lastDecision", "lastChange")
Json = Mapping[str, Any]


class InvalidStatus(OperatorError):
    """What is given holds no record of a decision: names the file and the remedy."""


def replay(options: argparse.Namespace) -> int:
    try:
        told = replayed(status(options.filename), changes(options.changes))
    except (InvalidStatus, InvalidRecord) as error:
        sys.stderr.write(f"headrace: {error}\n")
        return BAD_INPUT
    sys.stdout.write(json.dumps(told, indent=2) + "\n" if options.output == "json" else _table(told))
    return DISAGREES if not options.changes and any(not row["agrees"] for row in told) else 0


def status(path: Path) -> Json:
    """Of an object, or the status alone. Raises InvalidStatus."""
    remedy = "write it with `kubectl get infdep NAME -o json`"
    try:
        given = yaml.safe_load(path.read_text())  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidStatus(f"{path}: cannot be read: {error}") from None
    found = given.get("status", given) if isinstance(given, dict) else None
    if not isinstance(found, dict) or not any(isinstance(found.get(name), dict) for name in RECORDED):
        raise InvalidStatus(f"{path}: has no lastDecision and no lastChange; {remedy}")
    return found


# What another policy may say, by the name in a record.
READERS: dict[str, Any] = {
    "minReplicas": int,
    "maxReplicas": int,
    "metricsFallback": int,
    "specReplicas": int,
    "queueWaitTargetSeconds": float,
    "utilization": float,
    "scaleDownWindowSeconds": float,
    "metricsHoldSeconds": float,
    "mode": str,
    "forecast": lambda text: {"true": True, "false": False}[text],
}


def changes(given: Sequence[str]) -> dict[str, Any]:
    """Of FIELD=VALUE, in the record's words; 80% is 0.8. Raises InvalidStatus."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in READERS:
            raise InvalidStatus(f"--set {text}: {name!r} is not known; there are {', '.join(READERS)}")
        try:
            found[name] = READERS[name](float(value[:-1]) / 100 if value.endswith("%") else value)
        except (ValueError, KeyError):
            kind = "true or false" if name == "forecast" else READERS[name].__name__
            raise InvalidStatus(f"--set {text}: {value!r} is no {kind}") from None
    return found


def replayed(status: Json, policy: Json) -> list[dict[str, Any]]:
    """One row a record. Raises InvalidRecord."""
    return [_row(name, status[name], policy) for name in RECORDED if status.get(name)]


def _row(name: str, recorded: Json, policy: Json) -> dict[str, Any]:
    inputs = recorded.get("inputs", {})
    again = decided_again({**recorded, "inputs": {**inputs, "policy": {**inputs.get("policy", {}), **policy}}})
    return {
        "record": name,
        "at": recorded.get("at"),
        "from": recorded.get("from"),
        "to": recorded.get("to"),
        "reason": recorded.get("reason"),
        "computed": _computed(again),
        "agrees": not again.differences,
        "differences": list(again.differences),
    }


def _computed(again: Replay) -> dict[str, Any]:
    decision = again.decision
    return {"to": decision.replicas, "reason": str(decision.reason), "message": decision.message}


def _table(rows: Sequence[Json]) -> str:
    shown = [
        (
            row["record"], row["at"], f"{row['from']} -> {row['to']}", row["reason"],
            f"{row['from']} -> {row['computed']['to']}", row["computed"]["reason"], "yes" if row["agrees"] else "NO",
        )
        for row in rows
    ]  # fmt: skip
    return table(("RECORD", "AT", "RECORDED", "REASON", "COMPUTED", "REASON", "SAME"), shown)
