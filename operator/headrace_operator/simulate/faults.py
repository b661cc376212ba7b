"""What goes wrong while load comes: each is a value that a scenario sets."""

from dataclasses import dataclass

PLENTY = 1_000_000  # replicas
Span = tuple[float, float]  # seconds, from and until


@dataclass(frozen=True, slots=True)
class Faults:
    metrics_delay: float = 0.0  # seconds that every answer is old
    metrics_loss: float = 0.0  # share of answers that never come
    outages: tuple[Span, ...] = ()  # no pod answers
    liars: frozenset[int] = frozenset()  # ordinals: they say that nothing runs and a thousand requests wait
    slow: tuple[frozenset[int], float] = (frozenset(), 1.0)  # ordinals, and how many times longer their steps take
    gpus: tuple[tuple[float, int], ...] = ()  # (from, replicas that have room), ascending; pods beyond are lost
    retry_after: float | None = None  # seconds after which a client that still waits asks once more, elsewhere
    hangs_up: bool = False  # ... and gives its place up; otherwise nobody tells the server, and it is served twice
    tells_retries: bool = True  # who was refused or hung up says that it was asked before, as OpenAI's library does

    def room(self, now: float) -> int:
        """Replicas that find a GPU."""
        known = [gpus for begin, gpus in self.gpus if begin <= now]
        return known[-1] if known else PLENTY

    def is_out(self, now: float) -> bool:
        return any(begin <= now < end for begin, end in self.outages)

    def factor(self, ordinal: int) -> float:
        ordinals, factor = self.slow
        return factor if ordinal in ordinals else 1.0


NONE = Faults()
