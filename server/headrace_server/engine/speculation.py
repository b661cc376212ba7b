"""Speculative decoding (Leviathan et al. 2023): guess the next tokens, and have one step choose at each of them.

A guess stays as far as it is what the step chose there, so an answer is the same as without: greedy, and seeded too,
because a choice depends on its logits, its seed and its position alone. The next guess begins where this one was left,
which only the host knows once the step is done: while guesses are looked for, no step is planned ahead. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from headrace_server.config import SpeculativeConfig, SpeculativeMethod
from headrace_server.engine.guessing import Measured, Pays, UpTo
from headrace_server.engine.ngrams import NgramGuesser
from headrace_server.engine.sequence import READ_AT_ONCE, Guess, Guesser, Sequence, Step


@dataclass(frozen=True, slots=True)
class GuessRoom:
    """How much of a step may be guesses."""

    each: int = 0  # tokens of one sequence
    tokens: int = 0  # of all of them together: the rest is for prompts
    pages_kept: int = 0  # that a guess must leave: a guess preempts nobody


NO_ROOM = GuessRoom()


class Speculation:
    def __init__(self, config: SpeculativeConfig | None, max_tokens: int) -> None:
        """`config` None: nothing is guessed. `max_tokens`: of a step."""
        self.guesses = 0  # of one sequence in one step each
        self.guessed_tokens = 0
        self.accepted_tokens = 0  # of them, those that became part of an answer
        self.on = False  # in the next step
        self._config = config
        self._max_tokens = max_tokens
        self._pays = _law(config)
        self._in_flight = False  # a step that holds guesses
        self._brought = 0  # tokens, by the step that was committed last

    def prepare(self, sequence: Sequence) -> None:
        """Any thread may call it."""
        if self._config is None or sequence.guide is not None or sequence.request.sampling.penalises:
            return
        sequence.guesser = _guesser(self._config, sequence.request.prompt)

    def look(self, running: Iterable[Sequence]) -> GuessRoom:
        """Before each step."""
        if self._config is None:
            return NO_ROOM
        going_on = [one for one in running if one.may_run]
        decoding = [one for one in going_on if not one.fill_left]
        each = self._pays.tokens(len(decoding)) if any(one.guesser is not None for one in decoding) else 0
        self.on = each > 0
        if not self.on:
            return NO_ROOM
        return GuessRoom(each, (self._max_tokens - len(going_on)) // 2, len(going_on))

    @property
    def waits(self) -> bool:
        """While a step is in flight the next one cannot be planned."""
        return self.on or self._in_flight

    def planned(self, step: Step) -> None:
        self._in_flight = any(chunk.guess is not None for chunk in step.chunks)

    def committed(self, step: Step, tokens: int, accepted: int) -> None:
        """It brought so many tokens, of which so many were guessed."""
        self._in_flight, self._brought = False, tokens
        guesses = [chunk.guess.count for chunk in step.chunks if chunk.guess is not None and chunk.guess.count]
        self.guesses += len(guesses)
        self.guessed_tokens += sum(guesses)
        self.accepted_tokens += accepted

    def observe(self, step: Step, seconds: float) -> None:
        """How long it took, of the step that was committed last."""
        if self._config is not None and all(not chunk.token_ids for chunk in step.chunks):
            self._pays.observe(len(step.chunks), step.speculates, seconds, self._brought)


class DraftGuesser:
    """Nothing is known here of what the draft model will say."""

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        unread = sequence.planned - sequence.draft_read
        if unread >= READ_AT_ONCE:  # nothing was guessed for long
            sequence.draft_read += READ_AT_ONCE
            return Guess(0, (), unread)
        sequence.draft_read = sequence.planned + most  # the last guess is not read, but nothing of it is known before
        return Guess(most, (), unread)


def _law(config: SpeculativeConfig | None) -> Pays:
    if config is None:
        return UpTo(0, 0)
    return Measured(config.tokens) if config.max_batch is None else UpTo(config.max_batch, config.tokens)


def _guesser(config: SpeculativeConfig, prompt: tuple[int, ...]) -> Guesser:
    return NgramGuesser(prompt) if config.method is SpeculativeMethod.NGRAM else DraftGuesser()
