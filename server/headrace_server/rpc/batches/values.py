"""What is kept of files and batches: the values that the store, the runner and the endpoints share."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

WINDOW = 24 * 3600  # seconds; the only completion window that OpenAI's clients can ask for: "24h"


class Purpose(StrEnum):
    INPUT = "batch"
    OUTPUT = "batch_output"


class State(StrEnum):
    """Of a batch, by OpenAI's names; the last four are final."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


UNFINISHED = (State.VALIDATING, State.IN_PROGRESS, State.FINALIZING, State.CANCELLING)


@dataclass(frozen=True, slots=True)
class File:
    id: str
    tenant: str
    purpose: Purpose
    filename: str
    size: int  # bytes
    created_at: int  # seconds since 1970, as all times here


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for."""

    tenant: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Batch:
    id: str
    order: Order
    created_at: int
    expires_at: int
    state: State
    entered: Mapping[str, int]  # state -> when; without VALIDATING, which is created_at
    faults: tuple[Mapping[str, object], ...]  # of the input file, when FAILED
    total: int  # requests
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None

    @property
    def is_answered(self) -> bool:
        return self.completed + self.failed == self.total


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch, taken to be run."""

    batch_id: str
    number: int  # its line
    custom_id: str
    tenant: str
    endpoint: str
    body: str  # JSON


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, the newest first unless asked otherwise."""

    limit: int
    after: str | None = None  # the id that came last
    ascending: bool = False
