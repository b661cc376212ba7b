"""A profile of some steps: begun, counted and ended by the engine's thread, asked for by anyone.

Named ranges cost a comparison while nobody profiles.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

Range = Callable[[str], AbstractContextManager[object]]
_NOWHERE: AbstractContextManager[object] = nullcontext()


class Recorder(Protocol):
    """Of what the host and the device do. `start` and `stop` come from one thread."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def range(self, name: str) -> AbstractContextManager[object]:
        """Marks what happens inside it; costs next to nothing while nothing is recorded."""

    def save(self, path: Path) -> None:
        """What was recorded last, as a Chrome trace. Slow: seconds for many steps."""


@runtime_checkable
class Profiled(Protocol):
    """A runner whose work can be recorded."""

    @property
    def recorder(self) -> Recorder: ...


class StepProfile:
    """From the launch of one step to the commit of the last; what is in flight before does not count."""

    def __init__(self, recorder: Recorder, steps: int) -> None:
        self.ended: Future[int] = Future()  # how many steps it holds
        self._recorder = recorder
        self._steps = steps
        self._before = 0  # steps in flight when it began
        self._seen = 0
        self._running = False
        self._given_up = False

    def launching(self, in_flight: int) -> None:
        """A step is about to be."""
        if not self._running and not self._given_up:
            self._before = in_flight
            self._recorder.start()
            self._running = True

    def range(self, name: str) -> AbstractContextManager[object]:
        return self._recorder.range(name) if self._running else _NOWHERE

    def committed(self) -> bool:
        """A step was. True: that was the last one."""
        if not self._running:
            return False
        if self._before:
            self._before -= 1
            return False
        self._seen += 1
        return self._seen == self._steps

    def give_up(self) -> None:
        """Any thread may say so; the engine's ends it at its next look."""
        self._given_up = True

    @property
    def given_up(self) -> bool:
        return self._given_up

    def end(self) -> None:
        if self._running:
            self._recorder.stop()
        self._running = False
        self.ended.set_result(self._seen)


def nowhere(_: str) -> AbstractContextManager[object]:
    return _NOWHERE
