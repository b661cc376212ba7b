"""An embedder that tells what became of each request, as Answers does for generation."""

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace_server.embedding import EmbedAsk, Embedded, Embedder, EmbedderFacts, Judges
from headrace_server.rpc.witness import LEFT
from headrace_server.telemetry.answered import Answered, Hear, Operation


@dataclass(frozen=True, slots=True)
class WitnessedEmbedder:
    inner: Embedder
    hears: Sequence[Hear]
    clock: Callable[[], float] = time.monotonic

    @property
    def facts(self) -> EmbedderFacts:
        return self.inner.facts

    @property
    def _operation(self) -> Operation:
        return Operation.RERANK if self.facts.judges is Judges.TOGETHER else Operation.EMBEDDINGS

    async def embed(self, ask: EmbedAsk) -> Embedded:
        """Raises what the embedder raises."""
        arrived, embedded, error = self.clock(), None, None
        try:
            embedded = await self.inner.embed(ask)
        except CancelledError:
            error = LEFT
            raise
        except Exception as broken:
            error = type(broken).__name__
            raise
        finally:
            answered = _answered(ask, arrived, embedded, error, self.clock(), operation=self._operation)
            for hear in self.hears:
                hear(answered)
        return embedded


def _answered(
    ask: EmbedAsk, arrived: float, embedded: Embedded | None, error: str | None, now: float, *, operation: Operation
) -> Answered:
    return Answered(
        operation=operation,
        came_with=ask.came_with,
        arrived=arrived,
        ended=now,
        admitted=embedded is not None,
        began=None if embedded is None else arrived + embedded.queue_wait,
        prompt_tokens=None if embedded is None else sum(embedded.tokens),
        error=error,
    )
