"""A runner without a model: each request is answered with tokens that the test wrote."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace_server.engine.loop import Sampled, Step

STEP = 0.001  # seconds; a device that took none would be done before a caller could read, stop or hang up
Script = Callable[[tuple[int, ...]], Iterator[int]]  # prompt -> the tokens of its answer


class ScriptedRunner:
    """Implements the engine's Runner. `gate` holds every step while it is cleared; `broken` makes the next one fail.

    The step with the number `pause_at`, from 1 on, clears the gate itself, in the engine's thread: a test that did it
    when the first token has come would find the answer complete on a busy machine.
    """

    launched = 0  # steps
    pause_at: int | None = None

    def __init__(self, script: Script) -> None:
        self._script = script
        self._prompts: dict[int, list[int]] = {}  # by slot
        self._answers: dict[int, Iterator[int]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.broken: Exception | None = None
        self.adapters: set[str] = set()  # that any chunk named

    def warm_up(self) -> None:
        pass

    def launch(self, step: Step) -> "Scripted":
        self.launched += 1
        if self.launched == self.pause_at:
            self.gate.clear()
        self.adapters.update(chunk.adapter for chunk in step.chunks if chunk.adapter)
        for start in step.starts:
            self._prompts[start.slot] = [*start.tokens]
            self._answers.pop(start.slot, None)
        return Scripted(self, [self._next(chunk.slot) for chunk in step.chunks if chunk.samples])

    def _next(self, slot: int) -> int:
        if slot not in self._answers:
            self._answers[slot] = self._script(tuple(self._prompts[slot]))
        return next(self._answers[slot])


@dataclass(frozen=True, slots=True)
class Scripted:
    runner: ScriptedRunner
    ids: list[int]

    def wait(self) -> Sampled:
        time.sleep(STEP)
        assert self.runner.gate.wait(timeout=120)
        if self.runner.broken is not None:
            raise self.runner.broken
        return Sampled(self.ids, [], [], busy=0.0, gap=0.0)


def always(token_ids: Sequence[int]) -> Script:
    """The same answer to every prompt, again and again."""

    def script(_: tuple[int, ...]) -> Iterator[int]:
        while True:
            yield from token_ids

    return script
