"""How far this process is: the one fact behind /ready, gRPC health, the gauge, and whether a door answers at all."""

from enum import StrEnum

from headrace_server.config import Task
from headrace_server.embedding import Embedder, Judges
from headrace_server.errors import Draining, InvalidRequest
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.text_tokens import TextTokens
from headrace_server.rpc.witnessed_embedder import WitnessedEmbedder
from headrace_server.telemetry.told import NOBODY, Told


class Phase(StrEnum):
    """Shown by /ready and as the label of headrace_startup_phase_seconds."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    SLEEPING = "sleeping"  # the KV cache is given back; POST /wake_up
    DRAINING = "draining"
    FAILED = "failed"


_DOES = {Task.GENERATE: "generates", Task.EMBED: "embeds", Task.RERANK: "ranks", None: "loads"}


class Readiness:
    def __init__(self, metrics: ServerMetrics, told: Told = NOBODY) -> None:
        """`told`: of each request when it is over."""
        self._told = told
        self.phase = Phase.LOADING
        self._metrics = metrics
        self._answers: Answers | None = None
        self._embedder: Embedder | None = None
        self._tokens: TextTokens | None = None

    def enter(self, phase: Phase) -> None:
        """Any phase but READY."""
        self.phase = phase
        self._metrics.ready.set(0)

    def wake(self) -> None:
        """From SLEEPING."""
        self.phase = Phase.READY
        self._metrics.ready.set(1)

    def open(self, answers: Answers | None, embedder: Embedder | None = None, tokens: TextTokens | None = None) -> None:
        """What the model can do. From now on requests are answered; also while draining, until the engine refuses.

        `tokens`: an embedder's; None: its tokens are not told."""
        if answers is not None:
            answers.tell(self._told.hears, self._told.traces)
        self._answers = answers
        self._tokens = answers or tokens
        self._embedder = None if embedder is None else WitnessedEmbedder(embedder, self._told.hears)
        self.phase = Phase.READY
        self._metrics.ready.set(1)

    @property
    def task(self) -> Task | None:
        """None: nothing is known of the model yet."""
        if self._embedder is not None:
            return Task.RERANK if self._embedder.facts.judges is Judges.TOGETHER else Task.EMBED
        return None if self._answers is None else Task.GENERATE

    async def close(self) -> None:
        """Sends what there still is to tell."""
        await self._told.close()

    @property
    def max_model_len(self) -> int | None:
        """Tokens of a prompt and its answer, or of a text to embed; None: not known yet."""
        if self._answers is not None:
            return self._answers.limits.max_context
        return None if self._embedder is None else self._embedder.facts.max_tokens

    def answers(self) -> Answers:
        """Raises Draining while the model is not warm, InvalidRequest when it only embeds."""
        if self._answers is not None:
            return self._answers
        self._check_warm()
        raise InvalidRequest("model", f"{_DOES[self.task]} and does not generate; ask another deployment")

    def embedder(self) -> Embedder:
        """Raises Draining while the model is not warm, InvalidRequest when it does not embed."""
        if self._embedder is not None and self.task is Task.EMBED:
            return self._embedder
        self._check_warm()
        does = _DOES[self.task]
        raise InvalidRequest("model", f"{does} and does not embed; serve a model with --task=embed for embeddings")

    def ranker(self) -> Embedder:
        """A cross-encoder, or an embedder whose vectors are compared. Likewise, when it generates."""
        if self._embedder is not None:
            return self._embedder
        self._check_warm()
        raise InvalidRequest("model", "generates and does not rank; serve one with --task=rerank, or with --task=embed")

    def tokens(self) -> TextTokens:
        """Raises Draining while the model is not warm."""
        self._check_warm()
        if self._tokens is None:
            raise InvalidRequest("model", "tells no tokens; ask another deployment")
        return self._tokens

    def _check_warm(self) -> None:
        if self._answers is None and self._embedder is None:
            raise Draining(f"the model is not ready yet ({self.phase}); ask another replica, or again in a few seconds")
