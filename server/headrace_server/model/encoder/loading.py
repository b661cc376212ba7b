"""From a checkpoint directory to lanes that compute vectors: what can be refused is refused here, before a request."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from headrace_server.config import ServerConfig, Task
from headrace_server.embedding import EmbedderFacts, Judges, Pooling
from headrace_server.errors import ModelRefused
from headrace_server.model import weights as decoder_weights
from headrace_server.model.architecture import read_architecture
from headrace_server.model.encoder.backend import attention_for, layout_for
from headrace_server.model.encoder.cross import pair_scores, read_cross
from headrace_server.model.encoder.decoder import Decoder
from headrace_server.model.encoder.encoder import Encoder
from headrace_server.model.encoder.pooling import pooled
from headrace_server.model.encoder.runner import EncoderLane, Pool, TextModel, lanes
from headrace_server.model.encoder.sentence import Sentence, read_sentence
from headrace_server.model.encoder.shape import EncoderShape, is_encoder, is_judge, read_shape
from headrace_server.model.encoder.tokens import Tokens, load_tokens
from headrace_server.model.encoder.weights import EncoderWeights, count_parameters, load_weights
from headrace_server.model.encoder.work import decoder_work, encoder_work
from headrace_server.model.fields import Fields
from headrace_server.model.loading import DTYPES, gpu_of
from headrace_server.model.projection import Layout
from headrace_server.telemetry.gpu import GpuName
from headrace_server.telemetry.work import ModelWork

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
    """What the files beside the weights say of a model, and how its weights are loaded."""

    facts: EmbedderFacts
    lower_case: bool
    vocab_size: int
    parameters: int
    work: Callable[[torch.dtype], ModelWork]
    load: Callable[[Place], tuple[TextModel, Pool]]
    types: int = 1  # of tokens


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    lanes: tuple[EncoderLane, ...]
    facts: EmbedderFacts
    tokens: Tokens
    vocab_size: int
    enough_tokens: int | None  # of a batch; None: as many as there are
    device: str  # that the weights are on: cuda | cpu
    gpu: GpuName | None  # None: not on one
    work: ModelWork

    def warm_up(self) -> None:
        """No first request pays for a first time: a short text and a longer one, on every lane."""
        for length in (1, min(self.facts.max_tokens, LONG_ENOUGH)):
            for outcome in [lane.launch([(0,) * length]) for lane in self.lanes]:
                outcome.wait()


def load_embedder(config: ServerConfig, on_phase: Callable[[str], None]) -> LoadedEmbedder:
    """Also a cross-encoder, which gives one number for a pair. `on_phase` hears each phase's name when it begins.
    Raises ModelRefused."""
    on_phase("device")
    device, dtype = _device(config.device), DTYPES[config.dtype]
    on_phase("tokenizer")
    kind = _kind(config)
    tokens = _tokens(config.model, kind)
    on_phase("weights")
    place = Place(device, dtype, plain=config.engine.plain_kernels)
    model, pool = kind.load(place)
    return LoadedEmbedder(
        lanes=lanes(model, pool, device, config.engine, kind.parameters, rows=place.layout.rows),
        facts=kind.facts,
        tokens=tokens,
        vocab_size=kind.vocab_size * kind.types,
        enough_tokens=ENOUGH_ON_A_CPU if device.type == "cpu" else None,
        device=device.type,
        gpu=gpu_of(device),
        work=kind.work(dtype),
    )


def _kind(config: ServerConfig) -> Kind:
    directory = config.model
    if is_judge(directory) and config.task is not Task.RERANK:
        raise ModelRefused(f"{directory / 'config.json'}: is a cross-encoder, which ranks: serve it with --task=rerank")
    if config.task is Task.RERANK and not is_judge(directory):
        raise ModelRefused(
            f"{directory / 'config.json'}: is no cross-encoder, which --task=rerank serves; a model that embeds ranks "
            "by the cosine, with --task=embed"
        )
    if is_judge(directory):
        return _judge(directory)
    return _encoder(directory) if is_encoder(directory) else _decoder(directory)


def _tokens(directory: Path, kind: Kind) -> Tokens:
    rows = kind.vocab_size if kind.types > 1 else 0
    tokens = load_tokens(directory, kind.facts.max_tokens, lower_case=kind.lower_case, rows=rows)
    if tokens.vocab_size > kind.vocab_size:
        raise ModelRefused(
            f"{directory}: tokenizer.json has token ids up to {tokens.vocab_size - 1}, the weights only up to "
            f"{kind.vocab_size - 1}; put the tokenizer of these weights beside them"
        )
    return tokens


def _encoder(directory: Path) -> Kind:
    shape = read_shape(directory)
    sentence = read_sentence(directory, shape.hidden_size)

    def load(place: Place) -> tuple[TextModel, Pool]:
        weights = load_weights(directory, shape, place.device, place.dtype, place.layout)
        return _placed(shape, weights, place), partial(pooled, pooling=sentence.pooling)

    return Kind(
        facts=_facts(sentence, shape.hidden_size, shape.max_tokens),
        lower_case=sentence.lower_case,
        vocab_size=shape.vocab_size,
        parameters=count_parameters(shape),
        work=partial(encoder_work, shape),
        load=load,
    )


def _judge(directory: Path) -> Kind:
    shape, cross = read_shape(directory), read_cross(directory)

    def load(place: Place) -> tuple[TextModel, Pool]:
        weights = load_weights(directory, shape, place.device, place.dtype, place.layout)
        if weights.head is None:
            raise AssertionError("a cross-encoder was loaded without its head. This is a bug.")
        return _placed(shape, weights, place), partial(pair_scores, head=weights.head)

    return Kind(
        facts=EmbedderFacts(
            dimensions=1,
            max_tokens=min(cross.max_tokens or shape.max_tokens, shape.max_tokens),
            pooling=Pooling.CLS,
            normalises=False,
            judges=Judges.TOGETHER,
            bounds_scores=cross.bounds_scores,
        ),
        lower_case=cross.lower_case,
        vocab_size=shape.vocab_size,
        parameters=count_parameters(shape),
        work=partial(encoder_work, shape),
        load=load,
        types=shape.types,
    )


def _decoder(directory: Path) -> Kind:
    shape = read_architecture(directory, body=True)
    if not Fields.read(directory / "config.json").flag("is_causal", default=True):
        raise ModelRefused(f"{directory / 'config.json'}: is_causal is false; a decoder is served as it was trained")
    sentence = read_sentence(directory, shape.hidden_size, needed=True)
    facts = _facts(sentence, shape.hidden_size, shape.max_position)

    def load(place: Place) -> tuple[TextModel, Pool]:
        weights = decoder_weights.load_weights(directory, shape, place.device, place.dtype, place.layout, body=True)
        return Decoder(shape, weights, facts.max_tokens), partial(pooled, pooling=sentence.pooling)

    return Kind(
        facts=facts,
        lower_case=sentence.lower_case,
        vocab_size=shape.vocab_size,
        parameters=decoder_weights.count_parameters(shape),
        work=partial(decoder_work, shape),
        load=load,
    )


def _facts(sentence: Sentence, dimensions: int, positions: int) -> EmbedderFacts:
    max_tokens = min(sentence.max_tokens or positions, positions)
    return EmbedderFacts(dimensions, max_tokens, sentence.pooling, sentence.normalises)


def _placed(shape: EncoderShape, weights: EncoderWeights, place: Place) -> Encoder:
    return Encoder(shape, weights, attention_for(place.device, place.dtype, plain=place.plain))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            "device cuda was asked for and torch sees no GPU; give the pod one (nvidia.com/gpu) on a node with the "
            "NVIDIA driver, or serve with --device=cpu"
        )
    return torch.device(name)
