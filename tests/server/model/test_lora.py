"""Adapters chosen by each request: in one batch each answers as the model into which it alone was merged."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import merged, write_adapter
from checkpoints import Checkpoint, write_checkpoint
from headrace_server.config import (
    AdapterDirectory,
    EngineConfig,
    LoraConfig,
    QuantizationConfig,
    SpeculativeConfig,
    SpeculativeMethod,
    WeightFormat,
)
from headrace_server.engine.scheduler import Scheduler
from headrace_server.errors import ModelRefused, UnknownModel
from headrace_server.model.loading import load_model
from headrace_server.request import Request, Sampling
from models import Model, Scored, a_config, scored_answers
from runner_cases import CapturedPlain
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

PROMPT = tuple(range(3, 60))
ATTENTION = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("base"), intermediate_size=128)


@pytest.fixture(scope="module")
def adapters(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of all modules; of two of them in two layers, of another rank and scaled by its root."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "all": write_adapter(folder / "all", checkpoint),
        "some": write_adapter(folder / "some", checkpoint, 6, ATTENTION, layers=(0, 2), seed=2, use_rslora=True),
    }


@pytest.fixture(scope="module")
def alone(
    checkpoint: Checkpoint, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """By adapter, the checkpoint that it was merged into; "": the base."""
    folder = tmp_path_factory.mktemp("merged")
    found = {name: merged(folder / name, checkpoint, adapter) for name, adapter in adapters.items()}
    return {"": checkpoint.directory, **found}


def a_server(
    directory: Path, adapters: Mapping[str, Path] | None = None, quantization: Any = None, **engine: Any
) -> Model:
    config = a_config(directory, engine=EngineConfig(**engine), quantization=quantization)
    lora = LoraConfig(tuple(AdapterDirectory(*each) for each in (adapters or {}).items()), most_rank=8)
    config = replace(config, lora=lora)
    return Model(load_model(config, on_phase=lambda phase: None), config)


def request(name: str, number: int, adapter: str, **sampling: Any) -> Request:
    wanted = Sampling(**({"logprobs": 0} | sampling))
    return Request(f"{name}{number}", PROMPT[number : 9 + 11 * number], 10, 0.0, wanted, adapter=adapter)


def answers(model: Model, requests: list[Request]) -> Scored:
    return scored_answers(model, requests)[0]


def mixed(names: tuple[str, ...] = ("all", "", "some")) -> list[Request]:
    return [request(name or "base", number, name) for number in range(4) for name in names]


def same(found: list[tuple[int | None, float]], expected: list[tuple[int | None, float]], off: float = 1e-3) -> None:
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [logprob for _, logprob in found] == pytest.approx([logprob for _, logprob in expected], abs=off)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="whole prompts"),
        pytest.param({"max_tokens_per_step": 17}, id="in chunks"),
        pytest.param({"plain_kernels": True, "max_tokens_per_step": 40}, id="plain torch"),
        pytest.param({"batch_invariant": True}, id="batch-invariant"),
        pytest.param({"speculative": SpeculativeConfig(SpeculativeMethod.NGRAM)}, id="guessed ahead"),
    ],
)
def test_a_mixed_batch_answers_as_merged_weights(
    checkpoint: Checkpoint, adapters: dict[str, Path], alone: dict[str, Path], settings: dict[str, Any]
) -> None:
    together = answers(a_server(checkpoint.directory, adapters, page_size=8, **settings), mixed())
    for adapter, directory in alone.items():
        mine = [one for one in mixed() if one.adapter == adapter]
        bare = [request(adapter or "base", number, "") for number in range(4)]
        expected = answers(a_server(directory, page_size=8), bare)
        for one in mine:
            same(together[one.id], expected[one.id])
    firsts = {tuple(together[f"{name}2"]) for name in ("all", "base", "some")}
    assert len(firsts) == 3, "adapters that change nothing would prove nothing"


def test_captured_steps_answer_as_the_others_beside_steps_that_hold_adapters(
    checkpoint: Checkpoint, adapters: dict[str, Path]
) -> None:
    """As on a GPU: which rows are an adapter's is new in each step, so that only the others are captured."""
    requests = [*mixed(), replace(request("long", 1, ""), max_new_tokens=30)]  # alone at last
    plain = a_server(checkpoint.directory, adapters, page_size=8, plain_kernels=True)
    captured = Model(load_model(plain.config, lambda phase: None, CapturedPlain()), plain.config)
    captured.loaded.runner.warm_up()
    found, expected = answers(captured, requests), answers(plain, requests)
    for one in requests:
        same(found[one.id], expected[one.id])


def test_no_bit_depends_on_who_else_asks_for_which(checkpoint: Checkpoint, adapters: dict[str, Path]) -> None:
    server = a_server(checkpoint.directory, adapters, page_size=8, batch_invariant=True)
    together = answers(server, mixed())
    for one in mixed():
        assert answers(server, [one]) == {one.id: together[one.id]}


def test_logits_are_those_of_transformers_with_merged_weights(
    checkpoint: Checkpoint, adapters: dict[str, Path], alone: dict[str, Path]
) -> None:
    found = answers(a_server(checkpoint.directory, adapters), [request("it", 3, "all")])["it3"]
    reference = AutoModelForCausalLM.from_pretrained(alone["all"], attn_implementation="eager")
    tokens = [*PROMPT[3:42], *(token for token, _ in found if token is not None)]
    with torch.inference_mode():
        rows = reference(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
    expected = [rows[38 + place, token].item() for place, (token, _) in enumerate(found) if token is not None]
    assert [logprob for _, logprob in found] == pytest.approx(expected, abs=1e-3)


def test_the_prefix_cache_keeps_adapters_apart(checkpoint: Checkpoint, adapters: dict[str, Path]) -> None:
    model = a_server(checkpoint.directory, adapters, page_size=8)
    scheduler = Scheduler(model.config.engine, model.loaded.limits.kv_pages)
    hits = []
    assert scheduler.cache is not None
    for adapter in ("", "all", "all", "", "some"):
        scheduler.add(Request("it", PROMPT, 2, 0.0, adapter=adapter))
        while (step := scheduler.next_step(0.0)) is not None:
            done = model.loaded.runner.launch(step).wait()
            scheduler.commit(step, done.token_ids)
        hits.append(scheduler.cache.hit_tokens)
    assert hits == [0, 0, 56, 112, 112]


def test_beside_weights_in_int8_it_is_as_near_as_they_are(
    checkpoint: Checkpoint, adapters: dict[str, Path], alone: dict[str, Path]
) -> None:
    int8 = QuantizationConfig(WeightFormat.INT8)
    found = answers(a_server(checkpoint.directory, adapters, int8), [request("it", 3, "all")])["it3"]
    expected = answers(a_server(alone["all"]), [request("it", 3, "")])["it3"]
    assert found[0][1] == pytest.approx(expected[0][1], abs=0.5)


def test_what_is_not_served_is_named(checkpoint: Checkpoint, adapters: dict[str, Path]) -> None:
    limits = a_server(checkpoint.directory, adapters).loaded.limits
    with pytest.raises(UnknownModel, match="adapter: 'other' is not served here; adapters of this server: all, some"):
        limits.check(request("it", 3, "other"))


REFUSED = {
    "use_dora": (True, "magnitudes"),
    "lora_bias": (True, "biases"),
    "modules_to_save": (["lm_head"], "whole modules"),
    "rank_pattern": ({"q_proj": 2}, "ranks that differ"),
    "alpha_pattern": ({"q_proj": 2}, "scales that differ"),
    "trainable_token_indices": ([1], "embeddings"),
    "bias": ("all", "only 'none' is served"),
    "peft_type": ("IA3", "only LORA"),
    "r": (9, "at most --max-lora-rank=8"),
    "init_lora_weights": ("pissa", "path_initial_model_for_weight_conversion"),
    "lora_alpha": (None, "is missing"),
}


@pytest.mark.parametrize(("field", "value", "why"), [(name, *rest) for name, rest in REFUSED.items()])
def test_what_would_be_computed_otherwise_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, field: str, value: Any, why: str
) -> None:
    adapter = write_adapter(tmp_path / "it", checkpoint, modules=("q_proj",), **{field: value})
    with pytest.raises(ModelRefused, match=rf"adapter mine: .*adapter_config\.json: {field} .*{why}"):
        a_server(checkpoint.directory, {"mine": adapter})


def _embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 320)


def _head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)


def _half(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]


def _another_size(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 65)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_embedding, r"holds base_model\.model\.model\.embed_tokens\.lora_embedding_A, .*train only q_proj"),
        (_head, r"holds base_model\.model\.lm_head\.lora_A\.weight"),
        (_half, r"q_proj\.lora_A\.weight and not .*q_proj\.lora_B\.weight"),
        (_another_size, r"q_proj\.lora_A\.weight has shape \(4, 65\)"),
        (dict.clear, "is empty"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, checkpoint: Checkpoint, change: Any, why: str) -> None:
    adapter = write_adapter(tmp_path / "it", checkpoint, modules=("q_proj",))
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelRefused, match=f"adapter mine: .*{why}"):
        a_server(checkpoint.directory, {"mine": adapter})


def test_pickled_adapters_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    adapter = write_adapter(tmp_path / "it", checkpoint, modules=("q_proj",))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelRefused, match=r"adapter mine: .*adapter_model\.bin.*can run code"):
        a_server(checkpoint.directory, {"mine": adapter})
