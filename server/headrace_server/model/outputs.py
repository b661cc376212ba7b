"""What a step brings back from the device, and how it becomes values again."""

from dataclasses import dataclass

from torch import Tensor

from headrace_server.engine.core import Sampled
from headrace_server.model.descriptor import Layout
from headrace_server.model.device import Launched
from headrace_server.model.logprobs import LogprobRows
from headrace_server.request import Logprob, Logprobs


@dataclass(frozen=True, slots=True)
class Outputs:
    token_ids: Tensor  # int64 (sampled)
    logprobs: LogprobRows | None  # of them
    targets: Tensor  # int32 (scored rows)
    scores: LogprobRows | None  # of the targets
    fed: Tensor | None = None  # int32 (rows that decode): what was fed there; None: no draft model guessed any of it

    def tensors(self) -> tuple[Tensor, ...]:
        """What the host wants, in a fixed order; `Outcome` reads it back."""
        found = [self.token_ids]
        for ids, rows in ((self.token_ids, self.logprobs), (self.targets, self.scores)):
            if rows is not None:
                found += [ids, rows.chosen, rows.top_ids, rows.top]
        return tuple(found) if self.fed is None else (*found, self.fed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step in flight."""

    launched: Launched
    layout: Layout
    padded: int  # rows of the step that are nobody's

    def wait(self) -> Sampled:
        done = self.launched.wait()
        token_ids, *rest = done.tensors
        guessed = self._guessed(rest.pop()) if self.layout.drafting is not None else ()
        scores = _values(rest[-4:]) if self.layout.scored else []
        logprobs = _values(rest[:4]) if len(rest) > (4 if self.layout.scored else 0) else []
        return Sampled(
            token_ids.tolist(), [*logprobs], self._by_chunk(scores), done.busy, done.gap, self.padded, guessed
        )

    def _guessed(self, fed: Tensor) -> tuple[int, ...]:
        assert self.layout.drafting is not None
        token_ids = fed.tolist()
        return tuple(token_ids[row] for row in self.layout.drafting.guessed_rows)

    def _by_chunk(self, scores: list[Logprobs]) -> list[list[Logprobs]]:
        found, start = [], 0
        for scored in self.layout.scored:
            found.append(scores[start : start + scored.tokens])
            start += scored.tokens
        return found


def _values(tensors: list[Tensor]) -> list[Logprobs]:
    ids, chosen, top_ids, top = (tensor.tolist() for tensor in tensors)
    return [
        Logprobs(Logprob(token, logprob), tuple(map(Logprob, likeliest, theirs)))
        for token, logprob, likeliest, theirs in zip(ids, chosen, top_ids, top, strict=True)
    ]
