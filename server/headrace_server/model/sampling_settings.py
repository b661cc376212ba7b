"""What the sampler reads of each row: its settings as tensors, and which of them any row uses at all."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from torch import Tensor

from headrace_server.request import Sampling

TEMPERATURE, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY = range(6)  # columns of Settings.floats
SEED, TOP_K, STOPS_FROM = range(3)  # columns of Settings.ints
FLOATS, INTS = 6, 3


@dataclass(frozen=True, slots=True)
class Features:
    """What any row of a step uses. The host knows it before the step, so what nobody uses costs nothing."""

    random: bool = False
    all_ranked: bool = False  # a row with top-p and without top-k: all logits have to be sorted
    most_ranked: int = 0  # the greatest top-k, rounded up; without `all_ranked` so many best logits are enough
    min_p: bool = False
    penalties: bool = False
    biases: bool = False
    min_tokens: bool = False
    most_logprobs: int | None = None  # None: no row wants any; 0: of the chosen token only

    @property
    def filters(self) -> bool:
        return self.all_ranked or self.most_ranked > 0 or self.min_p

    @classmethod
    def of(cls, sampling: Sampling) -> Self:
        random = sampling.temperature > 0
        penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        return cls(
            random=random,
            all_ranked=random and sampling.top_p < 1 and sampling.top_k == 0,
            most_ranked=_power_of_two(sampling.top_k) if random else 0,
            min_p=random and sampling.min_p > 0,
            penalties=penalties != (1, 0, 0),
            biases=bool(sampling.logit_bias),
            min_tokens=sampling.min_tokens > 0,
            most_logprobs=sampling.logprobs,
        )


GREEDY = Features()


def together(used: Iterable[Features]) -> Features:
    """What at least one of them uses."""
    return _together(frozenset(used))


def _power_of_two(number: int) -> int:
    """The next one, 0 for 0: few different steps, whatever clients ask for."""
    return 1 << (number - 1).bit_length() if number else 0


@lru_cache(maxsize=1024)  # a server sees a handful of combinations, but asks at every step
def _together(used: frozenset[Features]) -> Features:
    logprobs = [each.most_logprobs for each in used if each.most_logprobs is not None]
    return Features(
        random=any(each.random for each in used),
        all_ranked=any(each.all_ranked for each in used),
        most_ranked=max((each.most_ranked for each in used), default=0),
        min_p=any(each.min_p for each in used),
        penalties=any(each.penalties for each in used),
        biases=any(each.biases for each in used),
        min_tokens=any(each.min_tokens for each in used),
        most_logprobs=max(logprobs, default=None),
    )


@dataclass(frozen=True, slots=True)
class Additions:
    """Sparse rows: `values[r, i]` is for the logit of token `ids[r, i]`. Unused places have value 0 (and any id)."""

    ids: Tensor  # int64 (rows, places)
    values: Tensor  # float32 (rows, places)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a text holds so far, by token id."""

    answer: Tensor  # int32 (rows, vocab): how often the answer does
    prompt: Tensor  # bool (rows, vocab): whether the prompt does


@dataclass(frozen=True, slots=True)
class Settings:
    """One row per row of logits. The last three are there when the step's Features say so."""

    floats: Tensor  # float32 (rows, FLOATS)
    ints: Tensor  # int64 (rows, INTS); STOPS_FROM: the first position at which a stop token may be chosen
    biases: Additions | None = None
    stops: Additions | None = None  # the value is -inf
    counts: Counts | None = None

    def column(self, number: int) -> Tensor:
        """float32 (rows, 1)"""
        return self.floats[:, number : number + 1]

    @property
    def seed(self) -> Tensor:
        return self.ints[:, SEED]

    @property
    def top_k(self) -> Tensor:
        """int64 (rows, 1); 0 = all"""
        return self.ints[:, TOP_K : TOP_K + 1]

    @property
    def stops_from(self) -> Tensor:
        return self.ints[:, STOPS_FROM : STOPS_FROM + 1]
