"""A real runner that stands still before a step that the test names, in the engine's thread.

A test that waits for an answer to be under way would find it complete on a busy machine.
"""

import threading

from headrace_server.engine.core import Outcome, Runner
from headrace_server.engine.sequence import Step


class Pause:
    """While `gate` is cleared, no step after the first `steps` is launched."""

    def __init__(self, runner: Runner, steps: int) -> None:
        self.gate = threading.Event()
        self._launch = runner.launch
        self._left = steps
        runner.launch = self._launched  # type: ignore[method-assign]

    def _launched(self, step: Step) -> Outcome:
        self._left -= 1
        if self._left < 0 and not self.gate.wait(timeout=300):
            raise TimeoutError("the test never opened the gate")
        return self._launch(step)
