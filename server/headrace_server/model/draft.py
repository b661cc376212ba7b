"""The draft model of a larger one: a checkpoint of its own that speaks the same tokens."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace_server.config import EngineConfig, QuantizationConfig, ServerConfig
from headrace_server.engine.limits import Limits
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.assembly import assembled
from headrace_server.model.backend import Backend
from headrace_server.model.cache import bytes_per_token, cache_dtype, empty_cache
from headrace_server.model.drafting import Drafter
from headrace_server.model.quantisation import settled
from headrace_server.model.weights import Weights, load_weights

log = logging.getLogger(__name__)
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Draft:
    """Loaded, without a KV cache."""

    shape: Architecture
    weights: Weights
    dtype: torch.dtype

    def share(self, target: Architecture, config: EngineConfig) -> float:
        """Of the memory for KV pages: with each page of the target comes one of this."""
        own, theirs = (bytes_per_token(each, cache_dtype(config, self.dtype)) for each in (self.shape, target))
        return own / (own + theirs)

    def drafter(self, config: EngineConfig, limits: Limits, backend: Backend) -> Drafter:
        device, kept = self.weights.embedding.device, cache_dtype(config, self.dtype)
        cache = empty_cache(self.shape, config, limits.kv_pages, device, kept, heads_apart=backend.heads_apart)
        positions = limits.max_context
        return Drafter(
            assembled(self.shape, self.weights, cache, backend, positions=positions, dtype=self.dtype), cache
        )


def load_draft(
    config: ServerConfig, target: Architecture, device: torch.device, dtype: torch.dtype, backend: Backend
) -> Draft | None:
    """None: nobody asked for one. Raises ModelRefused."""
    speculative = config.engine.speculative
    if speculative is None or speculative.draft_model is None:
        return None
    directory = speculative.draft_model
    shape = read_architecture(directory)
    _check(directory, shape, config.model, target)
    layout, why = backend.layout(shape, dtype)
    log.info("draft model %s, weight layout %s: %s", directory.name, layout.name, why)
    return Draft(shape, load_weights(directory, shape, device, dtype, layout), dtype)


def _check(directory: Path, shape: Architecture, model: Path, target: Architecture) -> None:
    """Raises ModelRefused."""
    said, remedy = f"--draft-model={directory}:", "choose a draft of the same family"
    if shape.vocab_size != target.vocab_size:
        raise ModelRefused(f"{said} has {shape.vocab_size} tokens, the model has {target.vocab_size}; {remedy}")
    if (vocabulary := _vocabulary(directory)) is not None and vocabulary != _vocabulary(model):
        raise ModelRefused(f"{said} its {TOKENIZER} gives tokens other ids than the model's; {remedy}")
    if shape.max_position < target.max_position:
        raise ModelRefused(
            f"{said} was trained for {shape.max_position} tokens of context, the model for {target.max_position}; "
            "choose a draft that reads as far"
        )
    how, _ = settled(directory, QuantizationConfig())
    if how is not None:
        raise ModelRefused(f"{said} was converted to {how.weights}; name the checkpoint that it was made of")


def _vocabulary(directory: Path) -> Any:
    """Token ids by token, in whatever form this kind of tokenizer has them; None: no file says it. Raises
    ModelRefused."""
    path = directory / TOKENIZER
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["model"].get("vocab"), [(each["id"], each["content"]) for each in found.get("added_tokens") or ()]
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise ModelRefused(
            f"{path} is no tokenizer: {broken!r}; copy it again from where the model is from"
        ) from broken
