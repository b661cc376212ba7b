"""The caches that config.CacheConfig asks for, put in front of what a model can do."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_server.config import CacheConfig
from headrace_server.embedding import Embedder
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.caches.answers import ResponseCache
from headrace_server.rpc.caches.embeddings import CachedEmbedder


@dataclass(frozen=True, slots=True)
class Caches:
    config: CacheConfig
    metrics: ServerMetrics
    clock: Callable[[], float]  # seconds; it never goes back

    def before(self, answers: Answers | None) -> Answers | None:
        if answers is not None and self.config.response_bytes is not None:
            answers.look_first(ResponseCache(self.config.response_bytes, self.config, self.metrics, self.clock))
        return answers

    def before_embedder(self, embedder: Embedder | None) -> Embedder | None:
        if embedder is None or self.config.embedding_bytes is None:
            return embedder
        return CachedEmbedder(embedder, self.config.embedding_bytes, self.config, self.metrics, self.clock)
