"""Everything the operator refuses or fails with.

OperatorError
├── InvalidSpec      the object says something the schema should have refused; names the field and the remedy
├── ScrapeFailed     a pod's /metrics did not answer, or not with what the contract promises
└── LeaseLost        another operator leads; this one must stop writing at once
"""


class OperatorError(Exception):
    """Base of all errors that cross a boundary inside the operator."""


class InvalidSpec(OperatorError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class ScrapeFailed(OperatorError):
    pass


class LeaseLost(OperatorError):
    pass
