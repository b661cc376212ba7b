"""What a process serves, by its task: how that is loaded, its engine, and what the doors ask of it."""

import time
from dataclasses import dataclass

from headrace_server.config import ServerConfig, Task
from headrace_server.embedding import Embedder
from headrace_server.engine.embed import EmbedEngine, EmbedModel
from headrace_server.engine.loop import Engine
from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.read_ahead import read_ahead
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.startup import PhaseTimes, Warm, load_generator


@dataclass(frozen=True, slots=True)
class Opened:
    engine: Engine | EmbedEngine
    answers: Answers | None  # one of them is there
    embedder: Embedder | None
    most_tokens: int  # of one request


def load(config: ServerConfig, readiness: Readiness, metrics: ServerMetrics) -> "Warm | EmbedEngine":
    """To be called in a thread of its own. Raises ModelRefused."""
    read_ahead(config.model)
    if config.task is Task.EMBED:
        return _load_embedder(config, readiness, metrics)
    return load_generator(config, readiness, metrics)


def opened(config: ServerConfig, warm: "Warm | EmbedEngine", metrics: ServerMetrics) -> Opened:
    if isinstance(warm, EmbedEngine):
        return Opened(warm, None, warm, warm.facts.max_tokens)
    engine = Engine(warm.runner, config.engine, warm.limits, metrics, time.monotonic, work=warm.work)
    answers = Answers(engine, warm.text, warm.limits, time.monotonic, grammars=warm.grammars)
    return Opened(engine, answers, None, warm.limits.max_context)


def _load_embedder(config: ServerConfig, readiness: Readiness, metrics: ServerMetrics) -> EmbedEngine:
    if config.batches is not None:
        raise ModelRefused(
            "--batch-store: offline jobs generate, and --task=embed does not; leave it out, and send texts with "
            "priority batch"
        )
    wall_clock = time.time  # noqa: TID251 - the operator compares it with Kubernetes' own times
    times = PhaseTimes(metrics, time.monotonic, wall_clock)
    times.enter("import")
    from headrace_server.model.encoder.loading import load_embedder  # noqa: PLC0415 - torch takes seconds

    loaded = load_embedder(config, times.enter)
    metrics.device_info.labels(loaded.device).set(1)
    times.enter(Phase.WARMING)
    readiness.enter(Phase.WARMING)
    loaded.warm_up()
    times.enter(None)
    model = EmbedModel(loaded.lanes, loaded.tokens, loaded.facts, loaded.vocab_size, loaded.enough_tokens)
    return EmbedEngine(model, config.engine, metrics)
