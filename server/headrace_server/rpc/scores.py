"""Logprobs on their way out: with the bytes that each token stands for, and where in the text it begins."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_server.request import Logprob, Logprobs


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that was chosen, or could have been."""

    id: int
    logprob: float | None  # None for a text's first token: nothing comes before it
    name: bytes  # its text; a special token's own name


@dataclass(frozen=True, slots=True)
class Score:
    """Of one place in a text."""

    chosen: Candidate
    top: tuple[Candidate, ...]  # the likeliest, in falling order
    offset: int  # characters of the text before it


@dataclass(frozen=True, slots=True)
class Scorer:
    name: Callable[[int], bytes]  # of a token id
    top: int  # how many of the likeliest the caller wants

    def first(self, token_id: int, offset: int) -> Score:
        return Score(Candidate(token_id, None, self.name(token_id)), (), offset)

    def score(self, found: Logprobs, offset: int) -> Score:
        """`found` may hold more of the likeliest: it is made for all callers of a step together."""
        return Score(self._candidate(found.chosen), tuple(map(self._candidate, found.top[: self.top])), offset)

    def _candidate(self, one: Logprob) -> Candidate:
        return Candidate(one.id, one.logprob, self.name(one.id))
