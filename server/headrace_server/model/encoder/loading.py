"""From a checkpoint directory to lanes that compute vectors: what can be refused is refused here, before a request."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headrace_server.config import ServerConfig
from headrace_server.embedding import EmbedderFacts
from headrace_server.errors import ModelRefused
from headrace_server.model.encoder.backend import attention_for, layout_for
from headrace_server.model.encoder.encoder import Encoder
from headrace_server.model.encoder.runner import EncoderLane, lanes
from headrace_server.model.encoder.sentence import read_sentence
from headrace_server.model.encoder.shape import read_shape
from headrace_server.model.encoder.tokens import Tokens, load_tokens
from headrace_server.model.encoder.weights import count_parameters, load_weights
from headrace_server.model.loading import DTYPES

# Tokens. all-MiniLM-L6-v2 in bfloat16, one thread: 0.155 ms a token in batches of 368, 0.143 ms in those of 2,216.
ENOUGH_ON_A_CPU = 512


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    lanes: tuple[EncoderLane, ...]
    facts: EmbedderFacts
    tokens: Tokens
    vocab_size: int
    enough_tokens: int | None  # of a batch; None: as many as there are
    device: str  # that the weights are on: cuda | cpu

    def warm_up(self) -> None:
        """No first request pays for a first time: a short text and a long one, on every lane."""
        for length in (1, self.facts.max_tokens):
            for outcome in [lane.launch([(0,) * length]) for lane in self.lanes]:
                outcome.wait()


def load_embedder(config: ServerConfig, on_phase: Callable[[str], None]) -> LoadedEmbedder:
    """`on_phase` hears each phase's name when it begins. Raises ModelRefused."""
    on_phase("device")
    device, dtype = _device(config.device), DTYPES[config.dtype]
    on_phase("tokenizer")
    shape = read_shape(config.model)
    sentence = read_sentence(config.model, shape.hidden_size)
    max_tokens = min(sentence.max_tokens or shape.max_tokens, shape.max_tokens)
    tokens = load_tokens(config.model, max_tokens, lower_case=sentence.lower_case)
    if tokens.vocab_size > shape.vocab_size:
        raise ModelRefused(
            f"{config.model}: tokenizer.json has token ids up to {tokens.vocab_size - 1}, the weights only up to "
            f"{shape.vocab_size - 1}; put the tokenizer of these weights beside them"
        )
    on_phase("weights")
    plain = config.engine.plain_kernels
    weights = load_weights(config.model, shape, device, dtype, layout_for(device, dtype, plain=plain))
    encoder = Encoder(shape, weights, attention_for(device, dtype, plain=plain))
    return LoadedEmbedder(
        lanes=lanes(encoder, sentence.pooling, device, config.engine, count_parameters(shape)),
        facts=EmbedderFacts(shape.hidden_size, max_tokens, sentence.pooling, sentence.normalises),
        tokens=tokens,
        vocab_size=shape.vocab_size,
        enough_tokens=ENOUGH_ON_A_CPU if device.type == "cpu" else None,
        device=device.type,
    )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            "device cuda was asked for and torch sees no GPU; give the pod one (nvidia.com/gpu) on a node with the "
            "NVIDIA driver, or serve with --device=cpu"
        )
    return torch.device(name)
