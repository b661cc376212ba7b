"""Everything the server refuses or fails with.

ServerError
├── InvalidRequest   the caller's fault; names the field and the remedy
│   └── UnknownModel it asks for a model that is not served here
├── Overloaded       full; try again after `retry_after` seconds
├── Draining         this replica is going away or not ready yet; another one will answer
├── EngineFailed     a forward pass broke; the process ends and Kubernetes restarts it
└── ModelRefused     the model cannot be served, or not as asked; ends the start-up with exit code 78 (EX_CONFIG)
"""


class ServerError(Exception):
    """Base of all errors that cross a boundary inside the server."""


class InvalidRequest(ServerError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message  # without the field, for a door that calls the field by another name


class UnknownModel(InvalidRequest):
    pass


class Overloaded(ServerError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class Draining(ServerError):
    pass


class EngineFailed(ServerError):
    pass


class ModelRefused(ServerError):
    pass
