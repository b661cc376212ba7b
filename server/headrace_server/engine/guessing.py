"""Whether guessing tokens ahead pays, by how many decode: a step that checks guesses takes longer, and brings more.

Learned from the steps themselves: how many tokens a second came with guesses and without. What a wrong guess costs
follows from the model, the machine and the batch (with few rows a step reads weights, with many it computes), and how
many guesses are right from what is being written; no constant knows either.
"""

from dataclasses import dataclass, field
from math import log2
from typing import Protocol

TRIAL = 12  # steps in which the other way is looked at
SETTLED = 256  # steps that the better way is kept, the first time; doubled each time that it stays the better one
LONGEST = 4096  # steps after which the other way is looked at again in any case: texts change
KEPT = 0.97  # of what was seen before, in the sums
SPIKE = 2.0  # a step counts as at most so many times the average: a moment in which the machine was busy is no trend
STEPS = 4  # sizes of batches from one to its double


class Pays(Protocol):
    def pays(self, decoding: int) -> bool:
        """Whether the next step, in which so many decode, is to hold guesses."""

    def observe(self, decoding: int, guessing: bool, seconds: float, tokens: int) -> None:
        """A step in which so many decoded and nothing else took so long and brought so many tokens."""


@dataclass(frozen=True, slots=True)
class UpTo:
    """As somebody said."""

    most: int  # sequences that decode

    def pays(self, decoding: int) -> bool:
        return decoding <= self.most

    def observe(self, decoding: int, guessing: bool, seconds: float, tokens: int) -> None:
        """Changes nothing."""


@dataclass(slots=True)
class _Seen:
    """One way at one size of batch, recent steps first."""

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
    def rate(self) -> float | None:
        """Tokens a second; None: not seen yet."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass(slots=True)
class _Size:
    guessing: bool  # now
    best: bool | None = None  # None: one of the two was not looked at yet
    left: int = TRIAL  # steps until that is thought over
    settled: int = SETTLED  # steps for which the better way is kept the next time
    seen: dict[bool, _Seen] = field(default_factory=lambda: {True: _Seen(), False: _Seen()})


class Measured:
    """Pure: the seconds are told."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}

    def pays(self, decoding: int) -> bool:
        return self._at(decoding).guessing

    def observe(self, decoding: int, guessing: bool, seconds: float, tokens: int) -> None:
        size = self._at(decoding)
        size.seen[guessing].add(seconds, tokens)
        if guessing is size.guessing:  # else it was planned before the last change of mind
            size.left -= 1
            if size.left <= 0:
                _think_over(size)

    def _at(self, decoding: int) -> _Size:
        """One not seen yet begins as the next smaller one is: what loses there loses with more."""
        number = int(STEPS * log2(max(1, decoding)))
        if number not in self._sizes:
            smaller = [known for known in self._sizes if known < number]
            begins = self._sizes[max(smaller)].best is not False if smaller else True
            self._sizes[number] = _Size(begins)
        return self._sizes[number]


def _think_over(size: _Size) -> None:
    guessed, plain = size.seen[True].rate, size.seen[False].rate
    if guessed is None or plain is None:
        size.guessing, size.left = not size.guessing, TRIAL
        return
    if size.guessing is size.best:  # it has been kept long enough to look at the other one again
        size.guessing, size.left = not size.guessing, TRIAL
        return
    best = guessed > plain
    size.settled = min(LONGEST, 2 * size.settled) if best is size.best else SETTLED
    size.guessing = size.best = best
    size.left = size.settled
