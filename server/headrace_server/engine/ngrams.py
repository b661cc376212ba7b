"""What may follow a text, found in the text itself: the longest of its ends that occurred before, and what came then.

Prompt lookup (Saxena 2023; transformers' `prompt_lookup_num_tokens`, vLLM's `ngram`): answers repeat their prompts and
themselves, and looking it up costs no model. Pure.
"""

from array import array
from collections.abc import Iterable

from headrace_server.engine.sequence import Guess, Sequence

CANDIDATES = 8  # earlier places that are compared, the latest first
LONGEST = 16  # tokens of an end that are compared; a longer match says no more


class Ngrams:
    """A token costs the same however long the text is: the places of each pair of tokens are chained."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens = array("i")
        self._before = array("i")  # by place: the place before that ended with the same two tokens; -1: none
        self._latest: dict[tuple[int, int], int] = {}  # place of the second of two tokens
        self.read(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, tokens: Iterable[int]) -> None:
        """What follows."""
        for token in tokens:
            place = len(self._tokens)
            self._tokens.append(token)
            pair = (self._tokens[place - 1], token) if place else (-1, token)
            self._before.append(self._latest.get(pair, -1))
            self._latest[pair] = place

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
