"""How far this process is: the one fact behind /ready, gRPC health, the gauge, and whether a door answers at all."""

from enum import StrEnum

from headrace_server.errors import Draining
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers


class Phase(StrEnum):
    """Shown by /ready and as the label of headrace_startup_phase_seconds."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Readiness:
    def __init__(self, metrics: ServerMetrics) -> None:
        self.phase = Phase.LOADING
        self._metrics = metrics
        self._answers: Answers | None = None

    def enter(self, phase: Phase) -> None:
        """Any phase but READY."""
        self.phase = phase
        self._metrics.ready.set(0)

    def open(self, answers: Answers) -> None:
        """From now on requests are answered; also while draining, until the engine itself refuses."""
        self._answers = answers
        self.phase = Phase.READY
        self._metrics.ready.set(1)

    def answers(self) -> Answers:
        """Raises Draining while the model is not warm."""
        if self._answers is None:
            raise Draining(f"the model is not ready yet ({self.phase}); ask another replica, or again in a few seconds")
        return self._answers
