"""How many tokens to guess ahead, by how many decode: a step that checks guesses takes longer, and brings more.

Learned from the steps themselves: how many tokens a second came with guesses, and without. What a wrong guess costs
follows from the model, the machine and the batch (with few rows a step reads weights, with many it computes), and how
many guesses are right from what is being written; no constant knows either.
"""

from dataclasses import dataclass, field
from math import log2
from typing import Protocol

TRIAL = 12  # steps in which another number is tried
SETTLED = 256  # steps that the best number is kept, the first time; doubled each time that it stays the best
LONGEST = 4096  # steps after which another one is tried in any case: texts change
KEPT = 0.97  # of what was seen before, in the sums
SPIKE = 2.0  # a step counts as at most so many times the average: a moment in which the machine was busy is no trend
STEPS = 4  # sizes of batches from one to its double


class Pays(Protocol):
    def tokens(self, decoding: int) -> int:
        """To be guessed for each of so many that decode, in the next step; 0: none."""

    def observe(self, decoding: int, guessing: int, seconds: float, tokens: int) -> None:
        """A step in which so many decoded and nothing else, with so many guesses each, took so long and brought so many
        tokens."""


@dataclass(frozen=True, slots=True)
class UpTo:
    """As somebody said."""

    most: int  # sequences that decode
    each: int  # tokens

    def tokens(self, decoding: int) -> int:
        return self.each if decoding <= self.most else 0

    def observe(self, decoding: int, guessing: int, seconds: float, tokens: int) -> None:
        """Changes nothing."""


@dataclass(slots=True)
class _Seen:
    """One number of guesses at one size of batch, recent steps first."""

    steps: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        if self.steps:
            seconds = min(seconds, SPIKE * self.seconds / self.steps)
        self.steps = self.steps * KEPT + 1
        self.seconds = self.seconds * KEPT + seconds
        self.tokens = self.tokens * KEPT + tokens

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Size:
    now: int  # guesses of each
    best: int | None = None  # None: some number was not tried yet
    left: int = TRIAL  # steps until that is thought over
    settled: int = SETTLED  # steps for which the best is kept the next time
    trials: int = 0  # of others than the best, so far
    seen: dict[int, _Seen] = field(default_factory=dict)


class Measured:
    """Pure: the seconds are told."""

    def __init__(self, most: int) -> None:
        """`most`: tokens guessed for one sequence. Half as many are looked at, too, and none."""
        self._numbers = tuple(dict.fromkeys((most, (most + 1) // 2, 0)))
        self._sizes: dict[int, _Size] = {}

    def tokens(self, decoding: int) -> int:
        return self._at(decoding).now

    def observe(self, decoding: int, guessing: int, seconds: float, tokens: int) -> None:
        size = self._at(decoding)
        size.seen.setdefault(guessing, _Seen()).add(seconds, tokens)
        if guessing == size.now:  # else it was planned before the last change of mind
            size.left -= 1
            if size.left <= 0:
                self._think_over(size)

    def _at(self, decoding: int) -> _Size:
        """One not seen yet begins as the next smaller one is: what loses there loses with more."""
        number = int(STEPS * log2(max(1, decoding)))
        if number not in self._sizes:
            smaller = [known for known in self._sizes if known < number]
            best = self._sizes[max(smaller)].best if smaller else None
            self._sizes[number] = _Size(self._numbers[0] if best is None else best)
        return self._sizes[number]

    def _think_over(self, size: _Size) -> None:
        untried = [number for number in self._numbers if number not in size.seen]
        if untried:
            size.now, size.left = untried[0], TRIAL
        elif size.now == size.best:  # it has been kept long enough to try another one again, one after the other
            others = [number for number in self._numbers if number != size.best]
            size.now, size.left = others[size.trials % len(others)], TRIAL
            size.trials += 1
        else:
            best = max(self._numbers, key=lambda number: size.seen[number].rate)
            size.settled = min(LONGEST, 2 * size.settled) if best == size.best else SETTLED
            size.now = size.best = best
            size.left = size.settled
