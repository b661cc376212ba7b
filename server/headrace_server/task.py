"""What a process serves, by its task: how that is loaded, its engine, and what the doors ask of it."""

import time
from dataclasses import dataclass

from headrace_server.config import ServerConfig, Task
from headrace_server.embedding import Embedder
from headrace_server.engine.embed import EmbedEngine, EmbedModel
from headrace_server.engine.loop import Engine
from headrace_server.gate import entry
from headrace_server.metrics import ServerMetrics
from headrace_server.model.lora.config import read_config
from headrace_server.model.quantisation import settled
from headrace_server.read_ahead import read_ahead
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.chat_template import load_chat_template
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.text_tokens import EmbedderTokens, TextTokens
from headrace_server.startup import PhaseTimes, Warm, load_generator
from headrace_server.telemetry.expose import expose_device


@dataclass(frozen=True, slots=True)
class WarmEmbedder:
    engine: EmbedEngine
    tokens: EmbedderTokens


@dataclass(frozen=True, slots=True)
class Opened:
    engine: Engine | EmbedEngine
    answers: Answers | None  # one of them is there
    embedder: Embedder | None
    tokens: TextTokens | None  # an embedder's
    most_tokens: int  # of one request


def load(config: ServerConfig, readiness: Readiness, metrics: ServerMetrics) -> "Warm | WarmEmbedder":
    """To be called in a thread of its own. Raises ModelRefused."""
    if config.model.is_dir():
        settled(config.model, config.quantization)  # what cannot be served is refused before seconds of importing torch
    for adapter in config.lora.adapters:
        read_config(adapter, config.lora.most_rank)  # likewise
    read_ahead(config.model)
    if config.task is not Task.GENERATE:
        return _load_embedder(config, readiness, metrics)
    return load_generator(config, readiness, metrics)


def opened(config: ServerConfig, warm: "Warm | WarmEmbedder", metrics: ServerMetrics) -> Opened:
    if isinstance(warm, WarmEmbedder):
        return Opened(warm.engine, None, warm.engine, warm.tokens, warm.engine.facts.max_tokens)
    engine = Engine(warm.runner, config.engine, warm.limits, metrics, time.monotonic, work=warm.work)
    answers = Answers(engine, warm.text, warm.limits, time.monotonic, grammars=warm.grammars)
    return Opened(engine, answers, None, None, warm.limits.max_context)


def _load_embedder(config: ServerConfig, readiness: Readiness, metrics: ServerMetrics) -> WarmEmbedder:
    wall_clock = time.time  # noqa: TID251 - the operator compares it with Kubernetes' own times
    times = PhaseTimes(metrics, time.monotonic, wall_clock)
    report = None
    if config.gate is not None:
        times.enter("gate")
        report = entry.check(config.gate, config.model, None)
    times.enter("import")
    from headrace_server.model.encoder.loading import load_embedder  # noqa: PLC0415 - torch takes seconds

    loaded = load_embedder(config, times.enter)
    metrics.device_info.labels(loaded.device).set(1)
    expose_device(config, metrics, loaded.gpu)
    if report is not None:
        entry.tell_if_moved(report, loaded.gpu)
    times.enter(Phase.WARMING)
    readiness.enter(Phase.WARMING)
    loaded.warm_up()
    times.enter(None)
    model = EmbedModel(loaded.lanes, loaded.tokens, loaded.facts, loaded.vocab_size, loaded.enough_tokens, loaded.work)
    special = dict(load_chat_template(config.model).special_tokens)
    tokens = EmbedderTokens(loaded.tokens, loaded.facts.max_tokens, special)
    return WarmEmbedder(EmbedEngine(model, config.engine, metrics), tokens)
