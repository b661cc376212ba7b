"""Vectors of real weights against sentence-transformers, and of RoBERTa's shape against transformers."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headrace_server.config import EngineConfig
from headrace_server.embedding import Pooling
from headrace_server.model.encoder.attention import EachText
from headrace_server.model.encoder.encoder import Encoder
from headrace_server.model.encoder.loading import LoadedEmbedder
from headrace_server.model.encoder.pooling import pooled
from headrace_server.model.encoder.runner import threads_of_lanes
from headrace_server.model.encoder.shape import read_shape
from headrace_server.model.encoder.texts import packed
from headrace_server.model.encoder.weights import load_weights
from headrace_server.model.projection import Plain
from minilm import loaded, minilm
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

WORDS = ("water", "runs", "through", "the", "headrace", "to", "wheel", "while", "nobody", "watches", "stones")
Vectors = NDArray[np.float32]


@cache
def oracle() -> SentenceTransformer:
    torch.set_num_threads(1)
    return SentenceTransformer(str(minilm()), device="cpu")


@cache
def embedder(dtype: str = "float32") -> LoadedEmbedder:
    return loaded(minilm(), dtype)


def texts(*words: int) -> list[str]:
    chance = random.Random(5)
    return [" ".join(chance.choices(WORDS, k=count)) for count in words]


def ours(given: Sequence[str], *, together: bool, dtype: str = "float32") -> Vectors:
    model = embedder(dtype)
    ids = model.tokens.encode(given, truncate=True)
    batches = [ids] if together else [[one] for one in ids]
    return np.concatenate([model.lanes[0].launch(batch).wait().vectors for batch in batches])


def cosines(one: Vectors, other: Vectors) -> Vectors:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / lengths)


LENGTHS = {"short": (1, 2, 3), "long": (230, 400), "mixed": (1, 250, 7, 100, 2, 40)}


@pytest.mark.parametrize("words", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "alone"])
def test_vectors_are_those_of_sentence_transformers(words: tuple[int, ...], together: bool) -> None:
    given = texts(*words)
    expected = np.asarray(oracle().encode(given, batch_size=1), dtype=np.float32)
    assert cosines(ours(given, together=together), expected).min() >= 0.999999


def test_bfloat16_is_as_near_as_it_has_to_be() -> None:
    given = texts(1, 3, 8, 20, 60, 120, 250, 400)
    expected = np.asarray(oracle().encode(given), dtype=np.float32)
    assert cosines(ours(given, together=True, dtype="bfloat16"), expected).min() >= 0.9999


def test_neighbours_change_nothing() -> None:
    given = texts(5, 200, 1)
    assert np.abs(ours(given, together=True) - ours(given, together=False)).max() < 1e-5


def test_the_facts_are_those_of_the_checkpoint() -> None:
    facts = embedder().facts
    assert (facts.dimensions, facts.max_tokens, facts.pooling, facts.normalises) == (384, 256, Pooling.MEAN, True)


@pytest.mark.parametrize("pooling", Pooling)
def test_a_roberta_counts_its_positions_from_after_the_padding_token(tmp_path: Path, pooling: Pooling) -> None:
    """Also with several token types, of which a text has the first."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = XLMRobertaConfig(
        **sizes, num_attention_heads=4, max_position_embeddings=40, pad_token_id=4, type_vocab_size=2
    )
    matches(XLMRobertaModel(config), tmp_path, pooling)


def test_a_bert_of_random_weights_matches(tmp_path: Path) -> None:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    matches(BertModel(BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)), tmp_path, Pooling.MEAN)


@torch.inference_mode()
def matches(model: torch.nn.Module, directory: Path, pooling: Pooling) -> None:
    for parameter in model.parameters():  # biases begin at 0 and norms at 1, which hides that they are not read
        parameter.normal_(0.0, 0.3)
    model.eval().save_pretrained(directory)  # type: ignore[operator]
    shape = read_shape(directory)
    weights = load_weights(directory, shape, torch.device("cpu"), torch.float32, Plain())
    ids = [[7, 8, 9, 10, 11], [12], [13, 14, 15]]
    batch = packed(ids)
    found = pooled(Encoder(shape, weights, EachText()).hidden(batch), batch, pooling)
    for one, vector in zip(ids, found, strict=True):
        hidden = model(torch.tensor([one])).last_hidden_state[0]
        expected = {Pooling.MEAN: hidden.mean(0), Pooling.CLS: hidden[0], Pooling.LAST: hidden[-1]}[pooling]
        assert torch.allclose(vector, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "parameters", "threads", "lanes"),
    [
        (EngineConfig(), 22_000_000, 2, (1, 1)),  # a small model: a lane for each thread
        (EngineConfig(), 335_000_000, 4, (4,)),  # a large one: all threads share each product
        (EngineConfig(cpu_threads=3), 22_000_000, 8, (1, 1, 1)),
        (EngineConfig(cpu_cores=(0, 1)), 335_000_000, 8, (2,)),
    ],
)
def test_lanes_are_made_of_the_threads_that_there_are(
    config: EngineConfig, parameters: int, threads: int, lanes: tuple[int, ...]
) -> None:
    assert threads_of_lanes(config, parameters, threads) == lanes
