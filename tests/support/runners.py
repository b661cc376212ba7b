"""Stand-ins for the model, for tests of what surrounds it. The real one needs a checkpoint and milliseconds a step."""

import threading
import time
from dataclasses import dataclass

from headrace_server.engine.core import Sampled
from headrace_server.engine.sequence import Step


class CountingRunner:
    """Continues every prompt with its own length: after 5 tokens come 5, 6, 7, ... (modulo the vocabulary).

    `steps` keeps what was launched. While `gate` is cleared a step does not end; `fault` is raised by the next one.
    The step with the number `pause_at`, from 1 on, clears the gate itself, in the engine's thread: a test that did it
    would come too late on a busy machine.
    """

    pause_at: int | None = None

    def __init__(self, vocab_size: int = 1000, step: float = 0.0) -> None:
        """`step`: seconds that the host waits for each."""
        self.steps: list[Step] = []
        self.most_in_flight = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()  # set when somebody has begun to wait for a step
        self.fault: Exception | None = None
        self.in_flight = 0
        self.step = step
        self._vocab_size = vocab_size

    def launch(self, step: Step) -> "Counted":
        self.steps.append(step)
        if len(self.steps) == self.pause_at:
            self.gate.clear()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        ids = [(chunk.start + chunk.tokens) % self._vocab_size for chunk in step.chunks if chunk.samples]
        return Counted(self, ids)

    def warm_up(self) -> None:
        """Nothing to warm."""


@dataclass(frozen=True, slots=True)
class Counted:
    runner: CountingRunner
    ids: list[int]

    def wait(self) -> Sampled:
        self.runner.entered.set()
        time.sleep(self.runner.step)
        if not self.runner.gate.wait(timeout=120):
            raise TimeoutError("the test never opened the gate")
        self.runner.in_flight -= 1
        if self.runner.fault is not None:
            raise self.runner.fault
        return Sampled(self.ids, [], [], busy=0.001, gap=0.0005)
