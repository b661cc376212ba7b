"""What each tenant may have of a server: read from a file, believed by the queue and the door."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace_server.errors import ModelRefused

OTHERS = "*"  # the entry for everybody without one


class TenantClass(StrEnum):
    """The metric label: names are the callers' own, so there is no end of them."""

    NAMED = "named"  # has an entry in the file
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Tenant:
    weight: float = 1.0  # of its share while others wait too: two get twice what one gets
    max_concurrent: int | None = None  # requests inside, waiting or running; None = any
    tokens_per_second: float | None = None  # prompt and answer, over BURST_SECONDS of engine/allowance.py; None = any


@dataclass(frozen=True, slots=True)
class Tenants:
    named: Mapping[str, Tenant] = field(default_factory=dict)
    others: Tenant = field(default_factory=Tenant)  # each of them

    def of(self, name: str) -> Tenant:
        return self.named.get(name, self.others)

    def class_of(self, name: str) -> TenantClass:
        return TenantClass.NAMED if name in self.named else TenantClass.DEFAULT


def tenants_from(document: Any, source: str) -> Tenants:
    """`document`: {name: {weight, maxConcurrent, tokensPerSecond}}. Raises ModelRefused naming source and field."""
    if not isinstance(document, dict):
        raise ModelRefused(f"{source}: is no JSON object; write {{NAME: {{weight, maxConcurrent, tokensPerSecond}}}}")
    named = {name: _tenant(entry, f"{source}: {name}") for name, entry in document.items()}
    others = named.pop(OTHERS, Tenant())
    return Tenants(named, others)


MOST = 1e15  # of anything; a share or a rate above it is a slip
FIELDS = ("weight", "maxConcurrent", "tokensPerSecond")


def _tenant(entry: Any, where: str) -> Tenant:
    if not isinstance(entry, dict):
        raise ModelRefused(f"{where}: is no object; write {{{', '.join(FIELDS)}}}, each of them may be left out")
    if strange := [name for name in entry if name not in FIELDS]:
        raise ModelRefused(f"{where}.{strange[0]}: is unknown; there are {', '.join(FIELDS)}")
    concurrent = _above_zero(entry, "maxConcurrent", where)
    if concurrent is not None and concurrent != int(concurrent):
        raise ModelRefused(f"{where}.maxConcurrent: is {concurrent}; must be a whole number of requests")
    weight = _above_zero(entry, "weight", where)
    return Tenant(
        weight=1.0 if weight is None else weight,
        max_concurrent=None if concurrent is None else int(concurrent),
        tokens_per_second=_above_zero(entry, "tokensPerSecond", where),
    )


def _above_zero(entry: dict[str, Any], name: str, where: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
        raise ModelRefused(f"{where}.{name}: is {value!r}; must be a number above 0, and at most {MOST:g}")
    return float(value)
