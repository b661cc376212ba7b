"""Stand-ins for the model, for tests of what surrounds it. The real one needs a checkpoint and milliseconds a step."""

import threading

from headrace_server.engine.sequence import Step


class CountingRunner:
    """Continues every prompt with its own length: after 5 tokens come 5, 6, 7, ... (modulo the vocabulary).

    `steps` keeps what was computed. While `gate` is cleared a forward blocks; `fault` is raised by the next one.
    """

    def __init__(self, vocab_size: int = 1000) -> None:
        self.steps: list[Step] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()  # set when a forward has begun
        self.fault: Exception | None = None
        self._vocab_size = vocab_size

    def forward(self, step: Step) -> list[int]:
        self.entered.set()
        if not self.gate.wait(timeout=30):
            raise TimeoutError("the test never opened the gate")
        if self.fault is not None:
            raise self.fault
        self.steps.append(step)
        return [(chunk.start + chunk.tokens) % self._vocab_size for chunk in step.chunks if chunk.samples]

    def warm_up(self) -> None:
        """Nothing to warm."""
