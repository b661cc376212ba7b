"""Everything the operator refuses or fails with.

OperatorError
├── InvalidSpec      the object says something the schema should have refused; names the field and the remedy
├── InvalidRecord    a decision in a status cannot be read; another version of the operator wrote it
├── ScrapeFailed     a pod's /metrics did not answer, or not with what the contract promises
├── LeaseLost        another operator leads, or may lead by now; this one must stop writing at once
├── WatchesEnded     nothing tells us of changes any more; the process must be started again
└── Unavailable      what we asked is overloaded, failing or silent: not the fault of who asked, so ask again soon
"""


class OperatorError(Exception):
    """Base of all errors that cross a boundary inside the operator."""


class InvalidSpec(OperatorError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class InvalidRecord(OperatorError):
    pass


class ScrapeFailed(OperatorError):
    pass


class LeaseLost(OperatorError):
    pass


class WatchesEnded(OperatorError):
    pass


class Unavailable(OperatorError):
    pass
