"""What one run compares: one model, one or more loads, and who is compared on them."""

import random
from dataclasses import dataclass
from pathlib import Path

from comparison.figures import Load
from comparison.floor import Shape, Speeds, floor_seconds
from comparison.process import Command
from comparison.wire import Settings, Work

LARGEST_PAGE = 256  # tokens; a side may round each request's KV cache up to it
RESERVED = 3  # token ids below may be special


@dataclass(frozen=True, slots=True)
class Plan:
    model: Path
    shape: Shape
    dtype: str
    device: str
    loads: tuple[Load, ...]
    peers: tuple[Command, ...]
    rounds: int
    check: bool

    @property
    def settings(self) -> Settings:
        requests = max(load.requests for load in self.loads)
        context = max(load.prompt + load.output for load in self.loads)
        held = max(load.requests * _rounded_up(load.prompt + load.output) for load in self.loads)  # tokens
        return Settings(
            model=str(self.model.resolve()),
            dtype=self.dtype,
            device=self.device,
            max_requests=requests,
            max_context=context,
            kv_cache_bytes=held * self.shape.kv_values * self.shape.bytes_per_value,
        )

    def work(self, load: Load, turn: int) -> Work:
        """New prompts each turn, so that no side answers from its prefix cache; the same ones for every side."""
        dice = random.Random(f"{load} {turn}")
        tokens = range(RESERVED, self.shape.vocabulary)
        return Work(tuple(tuple(dice.choices(tokens, k=load.prompt)) for _ in range(load.requests)), load.output)

    def floor(self, speeds: Speeds, load: Load) -> float:
        """Seconds."""
        return floor_seconds(self.shape, speeds, load.requests, load.prompt, load.output)


def _rounded_up(tokens: int) -> int:
    return -(-tokens // LARGEST_PAGE) * LARGEST_PAGE
