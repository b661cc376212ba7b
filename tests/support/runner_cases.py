"""What a runner must do with any backend, on any device. Each raises AssertionError if it does not.

Decode steps run at fixed addresses, padded: captured on a GPU, anew each time on a CPU. Float32, so that no two tokens
are a rounding error apart.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import torch
from engines import answer_of
from headrace_server.config import EngineConfig, KvCacheDtype, SpeculativeConfig, SpeculativeMethod
from headrace_server.engine.loop import Engine
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Chunk, Grant, Step
from headrace_server.metrics import ServerMetrics
from headrace_server.model.backend import Backend, PlainBackend
from headrace_server.model.gpu.backend import GpuBackend
from headrace_server.model.loading import load_model
from headrace_server.model.runner import ModelRunner
from headrace_server.request import Request, Sampling
from models import Model, a_config, asked
from prometheus_client import CollectorRegistry
from steps import a_start
from torch import Tensor

MAX_RUNNING = 5  # sizes 1, 2, 4 and 5
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.9, seed=3),
    Sampling(temperature=0.8, top_k=20, top_p=0.9, seed=4),
    Sampling(repetition_penalty=1.3, logit_bias=((9, 3.0),)),
    Sampling(temperature=1.2, min_p=0.02, seed=7, min_tokens=3),
    Sampling(logprobs=2),
)


class CapturedPlain(PlainBackend):
    """Plain torch, run as a GPU runs its kernels."""

    captures = True


def a_captured_model(
    directory: Path, device: str, backend: Backend, page_size: int, dtype: str = "float32", **settings: object
) -> Model:
    """Warm: its decode steps are captured."""
    sizes = {"max_running": MAX_RUNNING, "max_tokens_per_step": 12, "kv_cache_bytes": 2**22} | settings
    config = a_config(directory, dtype, device, EngineConfig(page_size=page_size, **sizes))
    model = Model(load_model(config, lambda phase: None, backend), config)
    model.loaded.runner.warm_up()
    return model


def check_tokens(directory: Path, device: str, page_size: int, new_tokens: int, longest: int) -> None:
    """The GPU's kernels answer as plain torch on a CPU, which captures nothing."""
    kernels = a_captured_model(directory, device, GpuBackend(page_size), page_size)
    _check_against_plain(kernels, directory, new_tokens, longest)


def check_guesses(directory: Path, device: str, page_size: int, method: SpeculativeMethod) -> None:
    """Likewise, where rows of one sequence read each other; plain torch guesses nothing."""
    draft = directory if method is SpeculativeMethod.DRAFT else None
    guesses = SpeculativeConfig(method, tokens=2, max_batch=1000, draft_model=draft)
    kernels = a_captured_model(directory, device, GpuBackend(page_size), page_size, speculative=guesses)
    _check_against_plain(kernels, directory, 6, 9)


def _check_against_plain(kernels: Model, directory: Path, new_tokens: int, longest: int) -> None:
    config = a_config(directory, engine=replace(kernels.config.engine, speculative=None))
    plain = Model(load_model(config, lambda phase: None, PlainBackend()), config)
    requests = {
        0: [asked("greedy", tuple(range(3, 3 + longest)), new_tokens)],
        3: [
            asked(f"sampled {n}", tuple(range(5 + n, 12 + 3 * n)), new_tokens - n, sampling)
            for n, sampling in enumerate(SAMPLINGS[:4])
        ],
        6: [asked("drawn", (7, 8, 9), 2 * new_tokens, Sampling(temperature=1.1, seed=5))],
    }
    assert kernels.answers(requests) == plain.answers(requests)


def check_pages_in_int8(directory: Path, device: str, page_size: int) -> None:
    """A prompt in two pieces, then tokens one by one: what comes next is as likely as with plain torch on a CPU.

    Not to the bit: of a value between two of INT8 each may take either.
    """
    kernels = a_captured_model(directory, device, GpuBackend(page_size), page_size, kv_cache_dtype=KvCacheDtype.INT8)
    config = a_config(directory, engine=kernels.config.engine)
    plain = Model(load_model(config, lambda phase: None, PlainBackend()), config)
    ids = tuple(range(3, 15))
    start, grants = (a_start(1),), (Grant(1, 0, 0),)
    for first, last in ((0, 7), (7, 10), (10, 11), (11, 12)):
        step = Step(start, grants, (Chunk(1, first, ids[first:last], samples=True),))
        [found], [expected] = (model.loaded.runner.logits(step) for model in (kernels, plain))
        assert torch.nn.functional.cosine_similarity(found.cpu(), expected, dim=0) > 0.999
        start, grants = (), ()


def check_overlap(directory: Path, device: str, backend: Backend, page_size: int, **settings: object) -> None:
    """The asynchronous loop over captured steps answers as the plain one over uncaptured ones, where nobody guesses."""
    captured = a_captured_model(directory, device, backend, page_size, **settings)
    config = a_config(directory, device=device, engine=replace(captured.config.engine, speculative=None))
    uncaptured = Model(load_model(config, lambda phase: None, backend), config)
    requests = [
        Request(str(n), tuple(range(3 + n, 10 + 4 * n)), 12, 0.0, sampling, stop_token_ids=frozenset({17, 201, 77}))
        for n, sampling in enumerate(SAMPLINGS * 2)
    ]
    assert asyncio.run(served(captured, requests, overlap=True)) == asyncio.run(
        served(uncaptured, requests, overlap=False)
    )


async def served(model: Model, requests: list[Request], overlap: bool) -> list[list[int | None]]:
    config = replace(model.config.engine, overlap=overlap)
    engine = Engine(model.loaded.runner, config, model.loaded.limits, ServerMetrics(CollectorRegistry()))
    heartbeat = asyncio.create_task(engine.run())
    try:
        answers = await asyncio.gather(*(answer_of(engine, request) for request in requests))
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)
    return [[token.id for token in tokens] for tokens in answers]


def check_padding(directory: Path, device: str, backend: Backend, page_size: int) -> None:
    """Three requests decode, in a step of four rows: of all pages that somebody may own, three places change."""
    model = a_captured_model(directory, device, backend, page_size, max_tokens_per_step=32)
    runner, scheduler = model.loaded.runner, Scheduler(model.config.engine, model.loaded.limits.kv_pages)
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1), SAMPLINGS[2]):  # each makes the step end otherwise
        for n in range(3):
            scheduler.add(asked(f"{sampling} {n}", tuple(range(3, 9 + n)), 4, sampling))
        _stepped(scheduler, runner)
        before = _owned(runner)
        step = _stepped(scheduler, runner)
        changed = (_owned(runner) != before).flatten(3).any(-1).any(0).any(0)
        assert sorted(changed.nonzero().flatten().tolist()) == _rows(runner, step)
        while scheduler.running:
            _stepped(scheduler, runner)


def _stepped(scheduler: Scheduler, runner: ModelRunner) -> Step:
    step = scheduler.next_step(0.0)
    assert step is not None
    scheduler.commit(step, runner.launch(step).wait().token_ids)
    return step


def _rows(runner: ModelRunner, step: Step) -> list[int]:
    """Where the keys of a decode step's tokens go."""
    slot, position = (torch.tensor([getattr(chunk, name) for chunk in step.chunks]) for name in ("slot", "start"))
    slots = runner._slots
    pages = slots.pages.cpu()[slot, position // slots.page_size]
    return sorted((pages * slots.page_size + position % slots.page_size).tolist())


def _owned(runner: ModelRunner) -> Tensor:
    """(2, layers, tokens of all pages but trash, KV heads, head_dim)"""
    cache = runner._transformer._attention._cache
    return torch.stack([pool[:, :-1].flatten(1, 2) for pool in (cache.keys, cache.values)]).clone()
