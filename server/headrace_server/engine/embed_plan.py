"""Which texts are computed together: the most urgent ones that fit. Pure: the caller brings the clock.

Texts lie one after the other in a batch, whatever their lengths, so nothing is gained by putting equal ones together.
"""

from dataclasses import dataclass

from headrace_server.config import EngineConfig
from headrace_server.engine.admission import Backlog
from headrace_server.engine.queue import OFFLINE, ONLINE, Waiting, kind
from headrace_server.engine.reserve import OfflineReserve
from headrace_server.engine.sequence import Sequence
from headrace_server.request import Priority

OWED = 4  # batches full of offline tokens that its reserve may have saved up


@dataclass(frozen=True, slots=True)
class Batch:
    texts: tuple[Sequence, ...]  # at least one
    tokens: int


class Planner:
    """Each text is a Sequence of its own, that ends with its first and only batch."""

    def __init__(self, config: EngineConfig, enough: int | None = None) -> None:
        """`enough`: tokens of a batch. A larger one computes no faster a token, and who is in it waits longer."""
        self._most_tokens = min(config.max_tokens_per_step, enough or config.max_tokens_per_step)
        self._most_texts = config.max_running
        self._waiting = Waiting(config.max_wait, lambda tenant: config.tenants.of(tenant).weight)
        self._reserve = OfflineReserve(config.offline_reserve, config.max_running, OWED * self._most_tokens)

    def add(self, text: Sequence) -> None:
        self._waiting.push(text)

    def drop(self, text: Sequence) -> None:
        """It waits and is wanted no more."""
        self._waiting.remove(text)

    def __len__(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    @property
    def fills_a_batch(self) -> bool:
        """Waiting for others could not make the next batch larger."""
        tokens = sum(self._waiting.tokens(each) for each in Priority)
        return tokens >= self._most_tokens or len(self._waiting) >= self._most_texts

    def take(self, now: float) -> Batch | None:
        """The next batch, whose texts wait no more; None when nothing waits."""
        chosen: list[Sequence] = []
        online = self._waiting.any(ONLINE)
        if online:
            self._fill(chosen, OFFLINE, now, self._reserve.allowance)
        reserved = _tokens(chosen)
        self._fill(chosen, ONLINE, now, self._most_tokens)
        if not self._waiting.any(ONLINE):
            self._fill(chosen, OFFLINE, now, self._most_tokens)
        self._waiting.look(now)
        if not chosen:
            return None
        tokens = _tokens(chosen)
        self._reserve.planned(tokens, reserved, contested=online and self._waiting.any(OFFLINE))
        return Batch(tuple(chosen), tokens)

    def backlog(self, now: float) -> Backlog:
        return Backlog(
            requests={each: self._waiting.requests(each) for each in Priority},
            tokens={each: self._waiting.tokens(each) for each in Priority},
            tokens_per_second={each: self._waiting.tokens_per_second(kind(each)) for each in Priority},
            oldest=self._waiting.oldest(now),
            answers=dict.fromkeys(Priority, 0),  # nothing is generated
            answers_per_second=dict.fromkeys(Priority),
        )

    def waiting(self, priority: Priority) -> int:
        """Texts."""
        return self._waiting.requests(priority)

    def waiting_tokens(self, priority: Priority) -> int:
        return self._waiting.tokens(priority)

    def oldest_waiting(self, now: float, classes: tuple[Priority, ...] = tuple(Priority)) -> float:
        """Seconds; 0 when nobody waits."""
        return self._waiting.oldest(now, classes)

    def _fill(self, chosen: list[Sequence], classes: tuple[Priority, ...], now: float, tokens: int) -> None:
        """Adds those of `classes` who fit, of at most so many tokens. One that is longer than a batch has its own."""
        total, added = _tokens(chosen), 0
        while len(chosen) < self._most_texts and (text := next(self._waiting.order(now, classes), None)) is not None:
            length = len(text.request.prompt)
            if chosen and total + length > self._most_tokens:
                return
            if added + length > tokens and (chosen or tokens < self._most_tokens):
                return
            self._begin(text, now)
            chosen.append(text)
            total, added = total + length, added + length

    def _begin(self, text: Sequence, now: float) -> None:
        self._waiting.begin(text)
        text.queue_wait = max(0.0, now - text.request.arrived_at)
        if text.share is not None:
            text.share.got(len(text.request.prompt))


def _tokens(texts: list[Sequence]) -> int:
    return sum(len(text.request.prompt) for text in texts)
