"""`--batch-invariant`: no bit of a logprob depends on neighbours, on chunks, on the prefix cache or on a restart."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint, write_config
from families import WINDOW
from headrace_server.config import (
    EngineConfig,
    KvCacheDtype,
    QuantizationConfig,
    SpeculativeConfig,
    SpeculativeMethod,
    WeightFormat,
)
from headrace_server.engine.scheduler import Scheduler
from headrace_server.errors import ModelRefused
from headrace_server.model.backend import backend_for
from headrace_server.model.loading import load_model
from headrace_server.model.projection import Layout, PlainProjection
from headrace_server.model.row_sizes import ANY
from headrace_server.model.tiles import TILE, InTiles
from headrace_server.request import Request, Sampling
from models import Model, a_config, a_model, scored_answers
from torch import Tensor

SIZES = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "norms of heads": ({"family": "qwen3", "head_dim": 24}, {}),
    "a window": ({"family": "mistral", "sliding_window": WINDOW}, {}),
    "bfloat16": ({}, {"dtype": "bfloat16"}),
    "two threads": ({}, {"cpu_threads": 2}),
    "int8 weights": ({}, {"quantization": QuantizationConfig(WeightFormat.INT8)}),
    "int4 weights": ({}, {"quantization": QuantizationConfig(WeightFormat.INT4, group_size=32)}),
    "int8 pages": ({}, {"kv_cache_dtype": KvCacheDtype.INT8}),
    "guessed ahead": ({}, {"speculative": SpeculativeConfig(SpeculativeMethod.NGRAM)}),
}
SAMPLINGS = (
    Sampling(logprobs=0),
    Sampling(temperature=1.0, seed=5, logprobs=3),
    Sampling(temperature=0.8, top_k=40, top_p=0.9, seed=6, repetition_penalty=1.2, logprobs=1),
    Sampling(temperature=1.2, top_p=0.7, min_p=0.02, seed=7, logit_bias=((9, 3.0), (11, -5.0)), logprobs=0),
)


def invariant(directory: Path, **settings: Any) -> Model:
    return a_model(directory, **({"batch_invariant": True, "page_size": 8} | settings))


def request(number: int, new_tokens: int = 6) -> Request:
    prompt = tuple(3 + (7 * number + at * (1 + number % 3)) % 300 for at in range(5 + 13 * number % 60))
    return Request(str(number), prompt, new_tokens, 0.0, SAMPLINGS[number % len(SAMPLINGS)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    written: dict[str, Path] = {}

    def of(**shape: Any) -> Path:
        if str(shape) not in written:
            written[str(shape)] = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **(SIZES | shape)).directory
        return written[str(shape)]

    return of


@pytest.mark.parametrize(("shape", "settings"), VARIANTS.values(), ids=VARIANTS.keys())
def test_neither_neighbours_nor_chunks_change_a_bit(
    checkpoint: Callable[..., Path], shape: dict[str, Any], settings: dict[str, Any]
) -> None:
    whole = invariant(checkpoint(**shape), **settings)
    in_chunks = invariant(checkpoint(**shape), **settings, max_tokens_per_step=37)
    expected, _ = scored_answers(whole, [request(number) for number in range(32)])
    assert scored_answers(in_chunks, [request(number) for number in range(32)])[0] == expected
    for batch in (range(1), range(1, 2), range(2, 3), range(3, 10)):
        found, _ = scored_answers(whole, [request(number) for number in batch])
        assert found == {str(number): expected[str(number)] for number in batch}


def test_guessing_ahead_changes_no_bit(checkpoint: Callable[..., Path]) -> None:
    guessing = invariant(checkpoint(), speculative=SpeculativeConfig(SpeculativeMethod.NGRAM))
    requests = [request(number, new_tokens=24) for number in range(6)]
    assert scored_answers(guessing, requests) == scored_answers(invariant(checkpoint()), requests)


def test_what_the_prefix_cache_had_changes_no_bit(checkpoint: Callable[..., Path]) -> None:
    model = invariant(checkpoint(), max_tokens_per_step=50)
    prompt = request(4).prompt
    alone, _ = scored_answers(model, [Request("it", prompt, 8, 0.0, SAMPLINGS[1])])
    before = [Request(str(n), (*prompt[:-n], 5), 1, 0.0) for n in range(1, 9)]
    together, hits = scored_answers(model, [*before, Request("it", prompt, 8, 0.0, SAMPLINGS[1])])
    assert together["it"] == alone["it"]
    assert hits >= 8


def test_a_prompts_own_logprobs_do_not_depend_on_where_it_is_cut(checkpoint: Callable[..., Path]) -> None:
    found = []
    for size in (11, 512):
        model = invariant(checkpoint(), max_tokens_per_step=size)
        scheduler = Scheduler(model.config.engine, model.loaded.limits.kv_pages)
        scheduler.add(Request("it", request(4).prompt, 1, 0.0, prompt_logprobs=2))
        scores = []
        while (step := scheduler.next_step(0.0)) is not None:
            done = model.loaded.runner.launch(step).wait()
            scores += [one for chunk in done.prompt_logprobs for one in chunk]
            scheduler.commit(step, done.token_ids, done.logprobs, done.prompt_logprobs)
        found.append(scores)
    assert len(found[0]) == len(request(4).prompt) - 1
    assert found[0] == found[1]


RESTARTED = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from test_batch_invariant import guessed_by, invariant, request, scored_answers
directory = Path(sys.argv[2])
for speculative in (None, guessed_by(directory)):
    model = invariant(directory, speculative=speculative)
    print(json.dumps(scored_answers(model, [request(number) for number in (3, 4)])[0]))
"""


def guessed_by(draft: Path) -> SpeculativeConfig:
    return SpeculativeConfig(SpeculativeMethod.DRAFT, max_batch=1000, draft_model=draft)


def test_a_restart_changes_no_bit_with_a_draft_model_nor_without(checkpoint: Callable[..., Path]) -> None:
    expected, _ = scored_answers(invariant(checkpoint()), [request(number) for number in range(3, 9)])
    paths = json.dumps([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", RESTARTED, paths, str(checkpoint())]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    for found in map(json.loads, again.stdout.splitlines()[-2:]):
        assert found == {name: [list(pair) for pair in expected[name]] for name in ("3", "4")}


class OfItsPlace(PlainProjection):
    """A product that is a bit off in the last row of many."""

    def __call__(self, x: Tensor) -> Tensor:
        found = super().__call__(x)
        found[-1] = found[-1].nextafter(torch.tensor(torch.inf))
        return found


class PlaceMatters:
    name, rows = "place matters", ANY

    def projection(self, weight: Tensor, bias: Tensor | None) -> OfItsPlace:
        return OfItsPlace(weight, bias)

    def gated(self, weight: Tensor, bias: Tensor | None) -> Any:
        raise NotImplementedError


def test_a_processor_whose_products_depend_on_the_place_is_refused() -> None:
    layout: Layout = PlaceMatters()
    with pytest.raises(ModelRefused, match=r"place changes the bits of its product with a matrix of 24 x 16.*--dtype"):
        InTiles(layout, torch.float32, lambda both: both).projection(torch.rand(24, 16), None)


@pytest.mark.parametrize(("rows", "size"), [(0, 0), (1, TILE), (TILE, TILE), (TILE + 1, 2 * TILE)])
def test_rows_are_computed_in_whole_tiles(rows: int, size: int) -> None:
    assert InTiles(PlaceMatters(), torch.float32, lambda both: both).rows.at_least(rows) == size


def test_a_gpu_and_plain_kernels_are_refused() -> None:
    config = EngineConfig(batch_invariant=True)
    with pytest.raises(ModelRefused, match=r"--batch-invariant is served on a CPU only as yet.*leave it out"):
        backend_for(torch.device("cuda"), config)
    with pytest.raises(ModelRefused, match=r"--batch-invariant and --plain-kernels: .*leave one out"):
        backend_for(torch.device("cpu"), EngineConfig(batch_invariant=True, plain_kernels=True))


def test_a_dtype_without_such_products_is_refused(tmp_path: Path) -> None:
    config = a_config(write_config(tmp_path), dtype="float16", engine=EngineConfig(batch_invariant=True))
    with pytest.raises(ModelRefused, match=r"--batch-invariant has no kernels for torch.float16.*float32"):
        load_model(config, lambda phase: None)
