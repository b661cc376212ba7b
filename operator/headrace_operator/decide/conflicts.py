"""Who else wants to say how many replicas there are, or what a pod is: reported, never fought.

Outside mode External the queue decides, and a number that somebody writes to spec.replicas is ignored. In mode External
one autoscaler may write it. What the operator made is the operator's: a hand on its pods' labels or spec is told, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_operator.decide.actions import Announce
from headrace_operator.decide.conditions import Condition
from headrace_operator.decide.reasons import Announcement, Health
from headrace_operator.service import Mode

TYPE = "ScalingConflict"
# For custom resources the API server does not write down who used /scale (kubernetes/kubernetes#131892).
UNNAMED = "somebody who used the scale subresource (kubectl scale, an HPA, KEDA)"
SHOWN = 3  # edits in one message; the next ones are as easily found


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler or KEDA's ScaledObject whose target is this InferenceDeployment."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A field that the operator owns, written by somebody else."""

    place: str  # such as "pod chat-5f3a1-0"
    field: str  # such as spec.containers[server].image
    manager: str  # as managedFields name it


@dataclass(frozen=True, slots=True)
class Claims:
    """What others wrote or set up, as the API server tells it."""

    replicas: int | None = None  # spec.replicas
    replicas_by: tuple[str, ...] = ()  # managers that wrote spec.replicas
    autoscalers: tuple[Autoscaler, ...] = ()
    autoscalers_unknown: str | None = None  # why they could not be listed; None = they were
    edits: tuple[Edit, ...] = ()


def condition(mode: Mode, claims: Claims) -> Condition:
    """True with every claim in its message; Unknown when nothing is seen and not everything could be looked at."""
    found = [(reason, said) for reason, check in _CHECKS for said in check(mode, claims)]
    if found:
        return Condition(TYPE, True, found[0][0], "; ".join(said for _, said in found))
    if claims.autoscalers_unknown:
        message = f"cannot list autoscalers: {claims.autoscalers_unknown}"
        return Condition(TYPE, None, Health.AUTOSCALERS_UNKNOWN, message)
    return Condition(TYPE, False, Health.UNDISPUTED, "nobody else scales this or edits its pods")


def news(found: Condition, before: Sequence[Mapping[str, Any]]) -> list[Announce]:
    """An event when a conflict is new or another one; `before` is the conditions that status shows."""
    is_known = any(
        known.get("type") == TYPE and known.get("status") == "True" and known.get("reason") == str(found.reason)
        for known in before
    )
    return [Announce(Announcement.SCALING_CONFLICT, found.message, True)] if found.status and not is_known else []


def _autoscalers(mode: Mode, claims: Claims) -> Sequence[str]:
    names = " and ".join(f"{found.kind} {found.name}" for found in claims.autoscalers)
    if mode is Mode.EXTERNAL:
        told = f"{names} drive spec.replicas against each other: keep one of them"
        return [told] if len(claims.autoscalers) > 1 else []
    told = (
        f"{names} targets this, but mode is {mode}, which ignores it: "
        f"delete it, or set spec.autoscaling.mode to {Mode.EXTERNAL}"
    )
    return [told] if claims.autoscalers else []


def _replicas(mode: Mode, claims: Claims) -> Sequence[str]:
    if mode is Mode.EXTERNAL or claims.replicas is None:
        return []
    who = " and ".join(claims.replicas_by) or UNNAMED
    return [
        f"{who} set spec.replicas to {claims.replicas}, but mode is {mode}, which ignores it: "
        f"remove the field, or set spec.autoscaling.mode to {Mode.EXTERNAL}"
    ]


def _edits(mode: Mode, claims: Claims) -> Sequence[str]:
    del mode
    shown = [f"{edit.manager} changed {edit.field} of {edit.place}" for edit in claims.edits[:SHOWN]]
    if not shown:
        return []
    more = f" and {len(claims.edits) - SHOWN} more" if len(claims.edits) > SHOWN else ""
    return [f"{', '.join(shown)}{more}: it stays until the pod goes; what should last belongs in the manifest"]


Check = Callable[[Mode, Claims], Sequence[str]]
# The loudest first: it gives the condition its reason.
_CHECKS: tuple[tuple[Health, Check], ...] = (
    (Health.FOREIGN_AUTOSCALER, _autoscalers),
    (Health.FOREIGN_REPLICAS, _replicas),
    (Health.FOREIGN_EDIT, _edits),
)
