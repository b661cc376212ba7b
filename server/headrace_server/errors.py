"""Everything the server refuses or fails with.

ServerError
├── InvalidRequest   the caller's fault; names the field and the remedy
│   └── UnknownModel it asks for a model that is not served here
├── Unauthenticated  nobody known asks: no API key, or none that counts
├── PermissionDenied somebody known asks for what is not theirs
├── Overloaded       no room for it now; try again after `retry_after` seconds
├── DeadlineExceeded admitted, and its deadline passed before the answer was complete
├── Draining         this replica is going away or not ready yet; another one will answer
├── NotNow           an act on the process that its state or its settings do not allow
├── EngineFailed     a forward pass broke; the process ends and Kubernetes restarts it
└── ModelRefused     the model cannot be served, or not as asked; ends the start-up with exit code 78 (EX_CONFIG)
"""

from enum import StrEnum


class Refusal(StrEnum):
    """Why a request was refused, as `reason` labels headrace_requests_refused. Each kind of refusal has one."""

    OVERLOADED = "overloaded"  # the queue is full, in requests or in tokens
    TENANT_LIMIT = "tenant_limit"  # its tenant has used up what it may; more replicas would not help
    LATE = "late"  # its deadline would pass before it could begin
    INVALID = "invalid"
    UNKNOWN_MODEL = "unknown_model"
    UNAVAILABLE = "unavailable"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"


class ServerError(Exception):
    """Base of all errors that cross a boundary inside the server."""


class InvalidRequest(ServerError):
    def __init__(self, field: str, message: str, code: str | None = None, *, place: int | None = None) -> None:
        """`code`: OpenAI's word for what is wrong with the field, where it has one. `place`: in a field that is a list,
        which of it `message` is about."""
        self.field = field
        self.code = code
        self.place = place
        self.fault = message  # without field and place, for a door that calls them otherwise
        self.message = message if place is None else f"number {place} {message}"  # without the field, likewise
        super().__init__(f"{field}: {self.message}")


class UnknownModel(InvalidRequest):
    pass


class Unauthenticated(ServerError):
    pass


class PermissionDenied(ServerError):
    pass


class Overloaded(ServerError):
    def __init__(self, message: str, retry_after: float, reason: Refusal = Refusal.OVERLOADED) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds
        self.reason = reason


class DeadlineExceeded(ServerError):
    def __init__(self, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.started = started  # False: not one forward pass was spent on it


class Draining(ServerError):
    pass


class NotNow(ServerError):
    pass


class EngineFailed(ServerError):
    pass


class ModelRefused(ServerError):
    pass
