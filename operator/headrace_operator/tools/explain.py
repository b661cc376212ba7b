"""`headrace explain`: the last decision, computed again from its record and shown step by step.

Exit status 3 when the record and the computation disagree: another version of the operator, or an edited status.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.foresight import NextChange, next_change
from headrace_operator.decide.manifests import KIND
from headrace_operator.decide.rollouts import State
from headrace_operator.errors import InvalidRecord
from headrace_operator.kube import Body
from headrace_operator.tools.connection import Connection, ToolFailed, find
from headrace_operator.tools.replay import Replay, replay
from headrace_operator.tools.table import duration, table

DISAGREES = 3  # exit status
Json = Mapping[str, Any]


async def explain(connection: Connection, options: argparse.Namespace) -> int:
    return _explain(await find(connection, options.name), options)


def explain_file(options: argparse.Namespace) -> int:
    """Without a cluster: of what `kubectl get infdep NAME -o yaml` wrote."""
    try:
        return _explain(_read(options.filename), options)
    except ToolFailed as error:
        sys.stderr.write(f"headrace: {error}\n")
        return 1


def explained(body: Body, now: float) -> str:
    """The text for people; of what cannot be explained, why."""
    try:
        last = _recorded(body, "lastDecision")
        return _text(body, last, _replay(last), now)
    except ToolFailed as error:
        return f"{error}\n"


def _explain(body: Body, options: argparse.Namespace) -> int:
    recorded = _recorded(body, "lastChange" if options.change else "lastDecision")
    again = _replay(recorded)
    now = time.time()  # noqa: TID251 - the edge that reads the clock
    told = _json(body, recorded, again) if options.output == "json" else _text(body, recorded, again, now)
    sys.stdout.write(told)
    return DISAGREES if again.differences else 0


def _read(path: Path) -> Body:
    try:
        body = yaml.safe_load(path.read_text())  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ToolFailed(f"cannot read {path}: {error}") from None
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise ToolFailed(f"{path} is not one {KIND}; write it with `kubectl get infdep NAME -o yaml`")
    return body


def _recorded(body: Body, name: str) -> Json:
    recorded: Json = body.get("status", {}).get(name, {})
    if not recorded:
        raise ToolFailed(f"{body['metadata']['name']} has no status.{name} yet: the operator has not decided that far")
    return recorded


def _replay(recorded: Json) -> Replay:
    try:
        return replay(recorded)
    except InvalidRecord as error:
        raise ToolFailed(f"{error}; explain it with the `headrace` of that version") from None


def _text(body: Body, recorded: Json, again: Replay, now: float) -> str:
    at = _epoch(recorded["at"])
    parts = [
        f"{body['metadata'].get('namespace', 'default')}/{body['metadata']['name']}: {recorded['message']}\n"
        f"{recorded['reason']}, from what was measured at {recorded['at']} ({duration(now - at)} ago)\n",
        _section("Inputs", table(("", "", ""), list(_inputs(recorded["inputs"])), indent="  ").split("\n", 1)[1]),
        _section("Proposals", _proposals(again)),
        _section("Rules that changed the number, in order", _clamps(again)),
        _result(recorded, again),
        _next(at, next_change(again.decision), now),
        _rollout(body.get("status", {}).get("rollout", {})),
        _section("Changes, the last ten", _ring(body.get("status", {}).get("decisions", []))),
    ]
    return "\n".join(part for part in parts if part)


def _rollout(told: Json) -> str:
    """Empty where every pod is of the revision that the manifest asks for."""
    if told.get("state", State.BASELINE) == State.BASELINE:
        return ""
    revisions = f"revision {told['updatedRevision']} after {told['stableRevision']}"
    step = f"  {told['state']} by strategy {told['strategy']}: {revisions}\n"
    return _section("Rollout", step + f"  {told['reason']}: {told['message'] or 'under way'}\n")


def _section(head: str, text: str) -> str:
    return f"{head}\n{text}"


def _inputs(inputs: Json) -> Iterator[tuple[str, str, str]]:
    for group, values in inputs.items():
        shown = group
        for name, value in values.items():
            if isinstance(value, Mapping):
                value = f"{value.get('pods', 0)} pods {value.get('message', '')}".strip()  # noqa: PLW2901
            yield shown, name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
            shown = ""


def _proposals(again: Replay) -> str:
    decision = again.decision
    if not decision.proposals:
        return "  none: the number stays as it is, but for the rules\n"
    rows = [(proposal.signal, proposal.replicas, decision.why(proposal)) for proposal in decision.proposals]
    return table(("SIGNAL", "REPLICAS", "WHY"), rows, indent="  ")


def _clamps(again: Replay) -> str:
    clamps = again.decision.clamps
    if not clamps:
        return "  none\n"
    return table(("RULE", "BEFORE", "AFTER"), [(c.reason, c.before, c.after) for c in clamps], indent="  ")


def _result(recorded: Json, again: Replay) -> str:
    decision = again.decision
    told = f"Computed again: {decision.current} -> {decision.replicas} replicas, {decision.reason}"
    if not again.differences:
        return f"{told}. The record says the same.\n"
    return (
        f"{told}.\n*** THE RECORD DISAGREES ***\n"
        + "".join(f"  {difference}\n" for difference in again.differences)
        + "Another version of the operator took this decision, or somebody edited the status.\n"
    )


def _next(at: float, found: NextChange | None, now: float) -> str:
    if found is None or at + found.after < now:
        return ""
    verb = "up" if found.decision.replicas > found.decision.current else "down"
    return (
        f"Next: scales {verb} to {found.decision.replicas} at {timestamp(at + found.after)} at the earliest, "
        f"if nothing changes ({found.decision.reason})\n"
    )


def _ring(decisions: list[Json]) -> str:
    if not decisions:
        return "  none yet\n"
    rows = [
        (entry["at"], f"{entry['from']} -> {entry['to']}", entry["reason"], entry["message"]) for entry in decisions
    ]
    return table(("AT", "REPLICAS", "REASON", "MESSAGE"), rows, indent="  ")


def _json(body: Body, recorded: Json, again: Replay) -> str:
    found, decision = next_change(again.decision), again.decision
    value = {
        "namespace": body["metadata"].get("namespace"),
        "name": body["metadata"]["name"],
        "recorded": recorded,
        "computed": {
            "from": decision.current,
            "to": decision.replicas,
            "reason": decision.reason,
            "proposals": [
                {"signal": proposal.signal, "replicas": proposal.replicas, "why": decision.why(proposal)}
                for proposal in decision.proposals
            ],
            "clamps": [{"reason": c.reason, "from": c.before, "to": c.after} for c in decision.clamps],
        },
        "agrees": not again.differences,
        "differences": again.differences,
        "next": found and {
            "at": timestamp(_epoch(recorded["at"]) + found.after),
            "to": found.decision.replicas,
            "reason": found.decision.reason,
        },
        "changes": body.get("status", {}).get("decisions", []),
    }  # fmt: skip
    return json.dumps(value, indent=2) + "\n"


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
