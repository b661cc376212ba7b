"""Who is behind a request: found by the gate before any handler runs, read where a request gets its tenant."""

from contextvars import ContextVar
from dataclasses import dataclass

LONGEST_TENANT = 128  # characters


@dataclass(frozen=True, slots=True)
class Identity:
    tenant: str  # never empty


# A context variable, because a task of its own handles each request, in HTTP and in gRPC: no handler can forget to hand
# it on, and none can hand on another's.
IDENTITY: ContextVar[Identity | None] = ContextVar("identity", default=None)


def check_tenant(name: str) -> str | None:
    """What is wrong with a tenant's name, in words; None when nothing is."""
    if 1 <= len(name) <= LONGEST_TENANT and name.isprintable():
        return None
    return f"must be 1 to {LONGEST_TENANT} printable characters"
