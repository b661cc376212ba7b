"""What sleeping asks of a runner."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Sleeper(Protocol):
    def sleep(self) -> None:
        """Gives the KV cache's memory back; no step is in flight, and none comes before `wake_up`."""

    def wake_up(self) -> None:
        """Raises MemoryError, and sleeps on, when the memory is not there."""
