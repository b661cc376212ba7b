"""Who is behind a request: found by the gate before any handler runs, read where a request gets its tenant."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    tenant: str  # never empty


# A context variable, because a task of its own handles each request, in HTTP and in gRPC: no handler can forget to hand
# it on, and none can hand on another's.
IDENTITY: ContextVar[Identity | None] = ContextVar("identity", default=None)
