"""Steps that are planned and not committed, and what becomes of the tokens that the device chose in them."""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from itertools import islice

from headrace_server.engine.acceptance import kept
from headrace_server.engine.finish import finish_after
from headrace_server.engine.sequence import Chunk, Sequence, Step
from headrace_server.request import Logprobs, Token


@dataclass(frozen=True, slots=True)
class Committed:
    """What a finished step brought."""

    tokens: tuple[tuple[Sequence, Token], ...]  # to deliver
    ended: tuple[Sequence, ...]  # by one of these tokens
    wasted: int = 0  # tokens chosen for requests that had ended before
    accepted: int = 0  # guesses among the tokens


class StepsInFlight:
    """Pure: what the device chose is told."""

    def __init__(self) -> None:
        self._steps: deque[tuple[Sequence, ...]] = deque()  # of each step, in the order of its chunks

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def latest(self) -> tuple[Sequence, ...]:
        """Whose the chunks of the step are that was planned last."""
        return self._steps[-1]

    def planned(self, sequences: tuple[Sequence, ...]) -> None:
        for sequence in sequences:
            sequence.steps_in_flight += 1
        self._steps.append(sequences)

    def forget(self) -> None:
        """None of them will ever be committed."""
        self._steps.clear()

    def commit(
        self,
        step: Step,
        token_ids: Listing[int],
        logprobs: Listing[Logprobs | None],
        prompt_logprobs: Listing[Listing[Logprobs]],
        guessed: Listing[int] = (),
    ) -> Committed:
        """See Scheduler.commit."""
        if len(token_ids) != step.samples:
            raise ValueError(f"the runner returned {len(token_ids)} tokens for {step.samples} choices")
        chosen = zip(token_ids, logprobs or (None,) * len(token_ids), strict=True)
        drafted = iter(guessed)
        tokens: list[tuple[Sequence, Token]] = []
        ended: list[Sequence] = []
        wasted = accepted = 0
        for sequence, chunk in _who_samples(self._steps.popleft(), step.chunks, prompt_logprobs):
            choices = [next(chosen)] if chunk.guess is None else list(islice(chosen, chunk.choices))
            theirs = choices if chunk.guess is None else kept(chunk.guess, choices, drafted)
            if sequence.finish is not None:  # it ended meanwhile, and this token is nobody's
                wasted += 1
                continue
            accepted -= 1  # what was chosen at its first token was not guessed
            for token_id, logprob in theirs:
                accepted += 1
                tokens.append((sequence, _accepted(sequence, token_id, logprob)))
                if sequence.finish is not None:
                    ended.append(sequence)
                    break
            if chunk.guess is not None and sequence.finish is None:
                _resume(sequence)
        return Committed(tuple(tokens), tuple(ended), wasted, accepted)


def _resume(sequence: Sequence) -> None:
    """Where its guesses were right the last time; of those that were not the KV is written over."""
    if sequence.slot is not None:  # else it was preempted, and begins anew
        sequence.planned = sequence.known - 1
        sequence.draft_read = min(sequence.draft_read, sequence.planned)


def _who_samples(
    sequences: tuple[Sequence, ...], chunks: tuple[Chunk, ...], prompt_logprobs: Listing[Listing[Logprobs]]
) -> Iterator[tuple[Sequence, Chunk]]:
    """The others have no more of it than what their prompts scored."""
    scores = iter(prompt_logprobs)
    for sequence, chunk in zip(sequences, chunks, strict=True):
        sequence.steps_in_flight -= 1
        if chunk.scoring is not None:
            sequence.prompt_logprobs[chunk.start :] = next(scores)
        if chunk.samples:
            yield sequence, chunk


def _accepted(sequence: Sequence, token_id: int, logprob: Logprobs | None) -> Token:
    sequence.answer.append(token_id)
    if sequence.share is not None:
        sequence.share.got(1)
    sequence.finish = finish_after(sequence, token_id)
    first = tuple(sequence.prompt_logprobs) if len(sequence.answer) == 1 else ()
    delivered = token_id not in sequence.request.stop_token_ids and sequence.request.max_new_tokens > 0
    return Token(
        id=token_id if delivered else None,
        finish=sequence.finish,
        queue_wait=sequence.queue_wait or 0.0,
        logprobs=logprob if delivered else None,
        prompt_logprobs=first,
        prompt_computed=sequence.prompt_computed,
    )
