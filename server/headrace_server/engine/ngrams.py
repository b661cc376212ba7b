"""What may follow a text, found in the text itself: the longest of its ends that occurred before, and what came then.

Prompt lookup (Saxena 2023; transformers' `prompt_lookup_num_tokens`, vLLM's `ngram`): answers repeat their prompts and
themselves, and looking it up costs no model. Pure.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from collections.abc import Sequence as Listing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_server.engine.sequence import Guess, Sequence

CANDIDATES = 8  # earlier places that are compared, the latest first
BITS = 32  # of a token id
LONGEST = 16  # tokens of an end that are compared; a longer match says no more


@dataclass(frozen=True, slots=True)
class Pairs:
    """Of a prompt. Sorted, not hashed: a token takes 21 bytes instead of 175, and a fifth of the time. Many prompts may
    wait, and who brings one is heard in the event loop."""

    before: "array[int]"  # by place: the place before that ended with the same two tokens; -1: none
    keys: "array[int]"  # of the pairs, each once
    places: "array[int]"  # of each: the latest one of its second token

    @classmethod
    def of(cls, tokens: "array[int]") -> "Pairs":
        ids = np.array(tokens, dtype=np.int64)
        keys = ids[:-1] << BITS | ids[1:]
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        again = in_order[1:] == in_order[:-1]  # as the one before it
        before = np.full(len(ids), -1)
        before[order[1:][again] + 1] = order[:-1][again] + 1
        last = np.append(~again, True)[: len(keys)]
        return cls(_ints(before), array("q", in_order[last].tobytes()), _ints(order[last] + 1))

    def latest(self, key: int) -> int:
        """-1: it does not occur."""
        found = bisect_left(self.keys, key)
        return self.places[found] if found < len(self.keys) and self.keys[found] == key else -1


class Ngrams:
    """A token that follows costs the same however long the text is: the places of each pair of tokens are chained."""

    def __init__(self, prompt: Listing[int] = ()) -> None:
        self._tokens = array("i", prompt)
        self._pairs = Pairs.of(self._tokens)
        self._before = self._pairs.before
        self._latest: dict[int, int] = {}  # place of the second of two tokens, of what was read since

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, tokens: Iterable[int]) -> None:
        """What follows."""
        for token in tokens:
            place = len(self._tokens)
            self._tokens.append(token)
            key = self._tokens[place - 1] << BITS | token if place else -1
            before = self._latest.get(key)
            self._before.append(self._pairs.latest(key) if before is None else before)
            self._latest[key] = place

    def next(self, most: int) -> tuple[int, ...]:
        """At most so many tokens; none when the last two never stood together before."""
        end = len(self._tokens) - 1
        place = self._before[end] if end >= 0 else -1
        best, longest = -1, 0
        for _ in range(CANDIDATES):
            if place < 1 or longest == LONGEST:
                break
            if (length := self._common(place, end)) > longest:
                best, longest = place, length
            place = self._before[place]
        if best < 0:
            return ()
        again = end - best  # after so many tokens what is guessed is read again: a text in circles goes on in circles
        return tuple(self._tokens[best + 1 + at % again] for at in range(most))

    def _common(self, place: int, end: int) -> int:
        """Tokens that are the same up to both places."""
        tokens, length = self._tokens, 0
        while length < LONGEST and length <= place and tokens[place - length] == tokens[end - length]:
            length += 1
        return length


class NgramGuesser:
    """Of one request."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self._ngrams = Ngrams(prompt)

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        self._ngrams.read(sequence.tokens(len(self._ngrams), sequence.known))
        token_ids = self._ngrams.next(most)
        return Guess(len(token_ids), token_ids) if token_ids else None


def _ints(values: NDArray[np.int64]) -> "array[int]":
    return array("i", values.astype(np.intc).tobytes())
