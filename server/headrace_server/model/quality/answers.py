"""How likely two models think the same texts, token by token, through the same runner that serves.

Both are given the true text (teacher forcing), so that one different token does not make all that follows incomparable.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from headrace_server.config import ServerConfig
from headrace_server.engine.sequence import Chunk, Grant, Start, Step
from headrace_server.evaluation import Golden, Quality
from headrace_server.model.cache import pages_for
from headrace_server.model.loading import Loaded, load_model
from headrace_server.request import Sampling


@dataclass(frozen=True, slots=True)
class Judged:
    """Token ids of which those from `begin` on count; `begin` is at least 1, for nothing is before the first."""

    ids: tuple[int, ...]
    begin: int


@dataclass(slots=True)
class _Sums:
    tokens: int = 0
    nats: float = 0.0
    base_nats: float = 0.0
    agreeing: int = 0
    kl: float = 0.0

    def add(self, logits: Tensor, base: Tensor, targets: Tensor) -> None:
        """logits and base float32 (rows, vocab), targets int64 (rows)."""
        found, right = logits.log_softmax(dim=-1), base.log_softmax(dim=-1)
        self.tokens += len(targets)
        self.nats -= float(found.gather(1, targets.unsqueeze(1)).double().sum())
        self.base_nats -= float(right.gather(1, targets.unsqueeze(1)).double().sum())
        self.agreeing += int((logits.argmax(dim=-1) == base.argmax(dim=-1)).sum())
        self.kl += float(kl_div(found, right, reduction="sum", log_target=True).double())


class Reader:
    """A model that reads texts and tells what it thought would come."""

    def __init__(self, config: ServerConfig, loaded: Loaded) -> None:
        self.limits = loaded.limits
        self._config = config.engine
        self._runner = loaded.runner

    def logits(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """float32 (rows, vocab), a few rows at a time: what follows each token, on the host."""
        size = self._config.max_tokens_per_step
        for begin in range(0, len(ids), size):
            chunk = Chunk(0, begin, tuple(ids[begin : begin + size]), samples=False)
            yield from self._runner.all_logits(Step(*(self._opening(ids) if begin == 0 else ((), ())), (chunk,)))

    def _opening(self, ids: Sequence[int]) -> tuple[tuple[Start, ...], tuple[Grant, ...]]:
        start = Start(0, tuple(ids), len(ids), Sampling(), frozenset(), queue_wait=None)
        grants = tuple(Grant(0, page, page) for page in range(pages_for(len(ids), self._config)))
        return (start,), grants


def compared(config: ServerConfig, base: ServerConfig, texts: "Texts", tell: Callable[[str], None]) -> Quality:
    """Raises ModelRefused."""
    readers = []
    for one in (config, base):
        tell(f"loading {one.model}")
        readers.append(Reader(one, load_model(one, lambda phase: None)))
    most = min(reader.limits.max_context for reader in readers)
    judged = texts(most, next(iter(readers[0].limits.eos_token_ids), None))
    sums = _Sums()
    for number, text in enumerate(judged, start=1):
        _compare(readers, text, sums)
        tell(f"{number} of {len(judged)} texts, {sums.tokens} tokens")
    return _quality(sums, len(judged))


def _compare(readers: Sequence[Reader], text: Judged, sums: _Sums) -> None:
    row = 0
    for logits, base in zip(*(reader.logits(text.ids[:-1]) for reader in readers), strict=True):
        targets = torch.tensor(text.ids[row + 1 : row + 1 + len(logits)])
        counted = max(0, text.begin - 1 - row)  # row i says what it thinks of token i + 1
        sums.add(logits[counted:], base[counted:], targets[counted:])
        row += len(logits)


def _quality(sums: _Sums, texts: int) -> Quality:
    lost = (sums.nats - sums.base_nats) / sums.tokens
    return Quality(
        texts=texts,
        tokens=sums.tokens,
        perplexity=math.exp(sums.nats / sums.tokens),
        base_perplexity=math.exp(sums.base_nats / sums.tokens),
        perplexity_increase=math.expm1(lost),
        nats_lost=lost,
        token_agreement=sums.agreeing / sums.tokens,
        kl=sums.kl / sums.tokens,
    )


def judged(golden: Sequence[Golden], tokenise: "Tokenise", most: int) -> list[Judged]:
    """A text that is longer than `most` tokens is read in parts of that length."""
    found = []
    for one in golden:
        ids, begin = tokenise(one)
        for start in range(0, len(ids) - 1, most - 1):
            part = ids[start : start + most]
            if begin < start + len(part):
                found.append(Judged(part, max(1, begin - start)))
    return found


Texts = Callable[[int, int | None], list[Judged]]  # none longer than so many tokens; the token that ends a text
Tokenise = Callable[[Golden], tuple[tuple[int, ...], int]]  # the ids, and which is the first one that counts
