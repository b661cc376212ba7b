"""Which guesses were right: those before the first that is not what the step chose in its place. Pure."""

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from headrace_server.engine.sequence import Guess

Choice = TypeVar("Choice")


def kept(guess: Guess | None, chosen: list[tuple[int, Choice]], drafted: Iterator[int]) -> list[tuple[int, Choice]]:
    """`chosen`: token ids, and what comes with each, after the token that was fed and after each guess.

    What follows a right guess is as good as if it had been chosen alone; what follows a wrong one follows nothing. The
    choice at the first wrong guess is itself right, so something is always kept. `drafted`: what the draft model
    guessed, of this chunk and those after it.
    """
    if guess is None:
        return chosen
    right = 0
    token_ids = guess.token_ids or tuple(islice(drafted, guess.count))
    for guessed, (token_id, _) in zip(token_ids, chosen, strict=False):  # one more is chosen than guessed
        if guessed != token_id:
            break
        right += 1
    return chosen[: right + 1]
