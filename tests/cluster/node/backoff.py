"""How long a container that ended waits before it starts again: 1 s, doubling to 15 s, forgotten after a good run."""

from dataclasses import dataclass

FIRST = 1.0  # s; a kubelet begins with 10 s, which a test would only wait for
LONGEST = 15.0  # s
GOOD_RUN = 30.0  # s of running after which earlier failures no longer count


@dataclass(frozen=True, slots=True)
class Backoff:
    failures: int = 0

    def after_run(self, seconds: float) -> "Backoff":
        """The next state when a container has ended that ran for `seconds`."""
        return Backoff(1 if seconds >= GOOD_RUN else self.failures + 1)

    @property
    def delay(self) -> float:
        """Seconds; the first restart is immediate, as a kubelet's is."""
        return 0.0 if self.failures <= 1 else min(LONGEST, FIRST * 2.0 ** (self.failures - 2))
