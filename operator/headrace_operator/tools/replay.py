"""A recorded decision, decided again by the same function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_operator.decide import record
from headrace_operator.decide.replicas import Decision, decide

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    decision: Decision  # from the recorded inputs
    differences: tuple[str, ...]  # where the record says something else; none = it says the same


def replay(recorded: Json) -> Replay:
    """`recorded`: a status' lastDecision or lastChange. Raises InvalidRecord."""
    decision = decide(record.situation(recorded.get("inputs", {})))
    told = {
        "from": decision.current,
        "to": decision.replicas,
        "reason": str(decision.reason),
        "proposals": [(str(proposal.signal), proposal.replicas) for proposal in decision.proposals],
        "clamps": [(str(clamp.reason), clamp.before, clamp.after) for clamp in decision.clamps],
    }
    known = {
        "from": recorded.get("from"),
        "to": recorded.get("to"),
        "reason": recorded.get("reason"),
        "proposals": [(entry.get("signal"), entry.get("replicas")) for entry in recorded.get("proposals", ())],
        "clamps": [(entry.get("reason"), entry.get("from"), entry.get("to")) for entry in recorded.get("clamps", ())],
    }
    differences = [
        f"{name}: recorded {known[name]}, computed {told[name]}" for name in told if known[name] != told[name]
    ]
    return Replay(decision, tuple(differences))
