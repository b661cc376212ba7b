"""From a checkpoint directory to lanes that compute vectors: what can be refused is refused here, before a request."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace_server.config import ServerConfig
from headrace_server.embedding import EmbedderFacts
from headrace_server.errors import ModelRefused
from headrace_server.model import weights as decoder_weights
from headrace_server.model.architecture import read_architecture
from headrace_server.model.encoder.backend import attention_for, layout_for
from headrace_server.model.encoder.decoder import Decoder
from headrace_server.model.encoder.encoder import Encoder
from headrace_server.model.encoder.runner import EncoderLane, TextModel, lanes
from headrace_server.model.encoder.sentence import read_sentence
from headrace_server.model.encoder.shape import is_encoder, read_shape
from headrace_server.model.encoder.tokens import Tokens, load_tokens
from headrace_server.model.encoder.weights import count_parameters, load_weights
from headrace_server.model.fields import Fields
from headrace_server.model.loading import DTYPES
from headrace_server.model.projection import Layout

# Tokens. all-MiniLM-L6-v2 in bfloat16, one thread: 0.155 ms a token in batches of 368, 0.143 ms in those of 2,216.
ENOUGH_ON_A_CPU = 512


LONG_ENOUGH = 512  # tokens of a rehearsed text


@dataclass(frozen=True, slots=True)
class Place:
    """Where and in what it is computed."""

    device: torch.device
    dtype: torch.dtype
    plain: bool  # no faster kernels

    @property
    def layout(self) -> Layout:
        return layout_for(self.device, self.dtype, plain=self.plain)


@dataclass(frozen=True, slots=True)
class Kind:
    """What config.json says of a model, and how its weights are loaded."""

    hidden_size: int
    max_tokens: int  # that its positions were trained for
    vocab_size: int
    parameters: int
    load: Callable[[Place, int], TextModel]  # for texts of so many tokens


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    lanes: tuple[EncoderLane, ...]
    facts: EmbedderFacts
    tokens: Tokens
    vocab_size: int
    enough_tokens: int | None  # of a batch; None: as many as there are
    device: str  # that the weights are on: cuda | cpu

    def warm_up(self) -> None:
        """No first request pays for a first time: a short text and a longer one, on every lane."""
        for length in (1, min(self.facts.max_tokens, LONG_ENOUGH)):
            for outcome in [lane.launch([(0,) * length]) for lane in self.lanes]:
                outcome.wait()


def load_embedder(config: ServerConfig, on_phase: Callable[[str], None]) -> LoadedEmbedder:
    """`on_phase` hears each phase's name when it begins. Raises ModelRefused."""
    on_phase("device")
    device, dtype = _device(config.device), DTYPES[config.dtype]
    on_phase("tokenizer")
    kind = _encoder(config.model) if is_encoder(config.model) else _decoder(config.model)
    sentence = read_sentence(config.model, kind.hidden_size, needed=not is_encoder(config.model))
    max_tokens = min(sentence.max_tokens or kind.max_tokens, kind.max_tokens)
    tokens = load_tokens(config.model, max_tokens, lower_case=sentence.lower_case)
    if tokens.vocab_size > kind.vocab_size:
        raise ModelRefused(
            f"{config.model}: tokenizer.json has token ids up to {tokens.vocab_size - 1}, the weights only up to "
            f"{kind.vocab_size - 1}; put the tokenizer of these weights beside them"
        )
    on_phase("weights")
    model = kind.load(Place(device, dtype, plain=config.engine.plain_kernels), max_tokens)
    return LoadedEmbedder(
        lanes=lanes(model, sentence.pooling, device, config.engine, kind.parameters),
        facts=EmbedderFacts(kind.hidden_size, max_tokens, sentence.pooling, sentence.normalises),
        tokens=tokens,
        vocab_size=kind.vocab_size,
        enough_tokens=ENOUGH_ON_A_CPU if device.type == "cpu" else None,
        device=device.type,
    )


def _encoder(directory: Path) -> Kind:
    shape = read_shape(directory)

    def load(place: Place, _: int) -> TextModel:
        weights = load_weights(directory, shape, place.device, place.dtype, place.layout)
        return Encoder(shape, weights, attention_for(place.device, place.dtype, plain=place.plain))

    return Kind(shape.hidden_size, shape.max_tokens, shape.vocab_size, count_parameters(shape), load)


def _decoder(directory: Path) -> Kind:
    shape = read_architecture(directory, body=True)
    if not Fields.read(directory / "config.json").flag("is_causal", default=True):
        raise ModelRefused(f"{directory / 'config.json'}: is_causal is false; a decoder is served as it was trained")

    def load(place: Place, max_tokens: int) -> TextModel:
        weights = decoder_weights.load_weights(directory, shape, place.device, place.dtype, place.layout, body=True)
        return Decoder(shape, weights, max_tokens)

    parameters = decoder_weights.count_parameters(shape)
    return Kind(shape.hidden_size, shape.max_position, shape.vocab_size, parameters, load)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            "device cuda was asked for and torch sees no GPU; give the pod one (nvidia.com/gpu) on a node with the "
            "NVIDIA driver, or serve with --device=cpu"
        )
    return torch.device(name)
