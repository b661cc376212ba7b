"""A real model behind the scheduler, without an event loop: deterministic, and as fast as its forward passes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_server.config import EngineConfig, QuantizationConfig, ServerConfig
from headrace_server.engine.scheduler import Scheduler
from headrace_server.model.loading import Loaded, load_model
from headrace_server.request import Request, Sampling


def a_config(
    directory: Path,
    dtype: str = "float32",
    device: str = "cpu",
    engine: EngineConfig | None = None,
    quantization: QuantizationConfig | None = None,
) -> ServerConfig:
    return ServerConfig(
        model=directory,
        name="test",
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        device=device,
        dtype=dtype,
        drain_timeout=1.0,
        max_connection_age=1.0,
        termination_log=None,
        engine=engine or EngineConfig(),
        quantization=quantization or QuantizationConfig(),
    )


@dataclass(frozen=True, slots=True)
class Model:
    loaded: Loaded
    config: ServerConfig

    def answers(self, arrivals: Mapping[int, list[Request]]) -> dict[str, list[int]]:
        """Token ids by request id. `arrivals`: step number -> who arrives before that step."""
        scheduler = Scheduler(self.config.engine, self.loaded.limits.kv_pages)
        answers: dict[str, list[int]] = {request.id: [] for group in arrivals.values() for request in group}
        number = 0
        while True:
            for request in arrivals.get(number, ()):
                scheduler.add(request)
            number += 1
            step = scheduler.next_step(0.0)
            if step is not None:
                sampled = self.loaded.runner.launch(step).wait()
                for sequence, token in scheduler.commit(step, sampled.token_ids, guessed=sampled.guessed).tokens:
                    if token.id is not None:
                        answers[sequence.request.id].append(token.id)
            elif number > max(arrivals):
                return answers

    def answer(self, prompt: tuple[int, ...], new_tokens: int, sampling: Sampling | None = None) -> list[int]:
        """Alone."""
        return self.answers({0: [asked("alone", prompt, new_tokens, sampling)]})["alone"]


def asked(name: str, prompt: tuple[int, ...], new_tokens: int, sampling: Sampling | None = None) -> Request:
    return Request(name, prompt, new_tokens, arrived_at=0.0, sampling=sampling or Sampling())


def a_model(
    directory: Path, dtype: str = "float32", quantization: QuantizationConfig | None = None, **engine: Any
) -> Model:
    """`engine` overrides EngineConfig's fields."""
    config = a_config(directory, dtype, engine=EngineConfig(**engine), quantization=quantization)
    return Model(load_model(config, on_phase=lambda phase: None), config)


Scored = dict[str, list[tuple[int | None, float]]]  # by request: tokens, each with its logprob


def scored_answers(model: Model, requests: list[Request]) -> tuple[Scored, int]:
    """Tokens and their logprobs, by request; and the prompt tokens that were found in the prefix cache."""
    scheduler = Scheduler(model.config.engine, model.loaded.limits.kv_pages)
    found: Scored = {one.id: [] for one in requests}
    for one in requests:
        scheduler.add(one)
    while (step := scheduler.next_step(0.0)) is not None:
        done = model.loaded.runner.launch(step).wait()
        for sequence, token in scheduler.commit(step, done.token_ids, done.logprobs, guessed=done.guessed).tokens:
            if token.logprobs is not None:
                found[sequence.request.id].append((token.id, token.logprobs.chosen.logprob))
    assert scheduler.cache is not None
    return found, scheduler.cache.hit_tokens
