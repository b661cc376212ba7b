"""How well texts fit together, by whatever the model can: a cross-encoder's score, or the cosine of two vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_server.embedding import EmbedAsk, Embedder, Judges, Pair
from headrace_server.errors import InvalidRequest
from headrace_server.request import Priority


@dataclass(frozen=True, slots=True)
class Side:
    """The texts of one of a request's fields."""

    field: str  # as the caller knows it
    texts: tuple[str, ...]
    is_list: bool = True  # False: it is one text, and has no place

    def refusal(self, invalid: InvalidRequest, place: int, among: str = "") -> InvalidRequest:
        return InvalidRequest(self.field, among + invalid.fault, invalid.code, place=place if self.is_list else None)


@dataclass(frozen=True, slots=True)
class Match:
    """Pairs to judge: the one text of `first` with each of `second`, or each with the one in its place."""

    first: Side
    second: Side
    truncate: bool = False  # cut what is longer than the context; False: InvalidRequest
    raw: bool = False  # a cross-encoder's own score, not brought between 0 and 1
    priority: Priority = Priority.STANDARD
    timeout: float | None = None  # seconds from arrival in which the answer is of use; None: no such limit

    def ask(self, judges: Judges) -> EmbedAsk:
        texts = (*self.first.texts, *self.second.texts)
        inputs = self._pairs() if judges is Judges.TOGETHER else texts
        normalise = None if judges is Judges.TOGETHER else True
        return EmbedAsk(inputs, None, normalise, self.truncate, self.priority, self.timeout)

    def _pairs(self) -> tuple[Pair, ...]:
        firsts = self.first.texts * (len(self.second.texts) if len(self.first.texts) == 1 else 1)
        return tuple(Pair(one, other) for one, other in zip(firsts, self.second.texts, strict=True))

    def in_our_words(self, invalid: InvalidRequest, judges: Judges) -> InvalidRequest:
        """Of a refusal of what `ask` gave."""
        if invalid.field != "input" or invalid.place is None:
            return invalid
        if judges is Judges.TOGETHER:
            return self.second.refusal(invalid, invalid.place, f"together with `{self.first.field}` ")
        before = len(self.first.texts)
        if invalid.place < before:
            return self.first.refusal(invalid, invalid.place)
        return self.second.refusal(invalid, invalid.place - before)


@dataclass(frozen=True, slots=True)
class Judged:
    scores: NDArray[np.float64]  # (pairs,)
    tokens: int  # computed
    queue_wait: float  # seconds
    compute: float  # seconds


async def judged(model: Embedder, match: Match, complete: Callable[[EmbedAsk], EmbedAsk] = lambda ask: ask) -> Judged:
    """`complete` adds who asks. Raises what `Embedder.embed` raises, in the words of the fields of `match`."""
    facts = model.facts
    try:
        found = await model.embed(complete(match.ask(facts.judges)))
    except InvalidRequest as invalid:
        raise match.in_our_words(invalid, facts.judges) from invalid
    vectors = found.vectors.astype(np.float64)
    if facts.judges is Judges.TOGETHER:
        scores = _sigmoid(vectors[:, 0]) if facts.bounds_scores and not match.raw else vectors[:, 0]
    else:
        one, other = np.split(vectors, [len(match.first.texts)])
        scores = np.clip((one * other).sum(axis=1), -1.0, 1.0)  # of length 1, but for float32's last bits
    return Judged(scores, sum(found.tokens), found.queue_wait, found.compute)


def best_first(scores: NDArray[np.float64], top: int | None) -> list[int]:
    """Places of the highest scores; of equal ones the earlier first."""
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order[:top]


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0)))  # exp(709) is the last finite
    return found
