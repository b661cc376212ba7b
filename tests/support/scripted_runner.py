"""A runner without a model: each request is answered with tokens that the test wrote."""

import threading
from collections.abc import Callable, Iterator, Sequence

from headrace_server.engine.loop import Step

Script = Callable[[tuple[int, ...]], Iterator[int]]  # prompt -> the tokens of its answer


class ScriptedRunner:
    """Implements the engine's Runner. `gate` holds every step while it is cleared; `broken` makes the next one fail."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._prompts: dict[int, list[int]] = {}  # by slot
        self._answers: dict[int, Iterator[int]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.broken: Exception | None = None

    def warm_up(self) -> None:
        pass

    def forward(self, step: Step) -> list[int]:
        assert self.gate.wait(timeout=30)
        if self.broken is not None:
            raise self.broken
        for start in step.starts:
            self._prompts[start.slot] = []
            self._answers.pop(start.slot, None)
        for chunk in step.chunks:
            self._prompts[chunk.slot] += chunk.token_ids
        return [self._next(chunk.slot) for chunk in step.chunks if chunk.samples]

    def _next(self, slot: int) -> int:
        if slot not in self._answers:
            self._answers[slot] = self._script(tuple(self._prompts[slot]))
        return next(self._answers[slot])


def always(token_ids: Sequence[int]) -> Script:
    """The same answer to every prompt, again and again."""

    def script(_: tuple[int, ...]) -> Iterator[int]:
        while True:
            yield from token_ids

    return script
