"""Structured output in the engine: the mask of an answer's next token, which the token before it decides."""

import numpy as np
from numpy.typing import NDArray

from headrace_server.request import Grammar

BITS = 32  # of a word


class Guide:
    """One answer's grammar and what it allows next."""

    def __init__(self, grammar: Grammar, vocab_size: int) -> None:
        """Raises InvalidRequest when the grammar cannot begin."""
        self._grammar = grammar
        self.mask: NDArray[np.int32] = np.zeros(-(-vocab_size // BITS), dtype=np.int32)  # a bit a token, lowest first
        grammar.fill(self.mask)

    def accept(self, token_id: int) -> bool:
        """The token that was chosen by the mask; makes the next mask. True: nothing but a stop token can follow.

        Raises InvalidRequest when the grammar leads nowhere, or costs the other requests more than they can wait.
        """
        self._grammar.accept(token_id)
        if self._grammar.finished:
            return True
        self._grammar.fill(self.mask)
        return False
