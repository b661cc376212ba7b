"""What a step costs by the model's arithmetic, against torch's own counting of operations in transformers' model."""

from pathlib import Path

import pytest
import torch
from checkpoints import edit_config, write_checkpoint
from cross_encoders import write_cross_encoder
from headrace_server.model.architecture import read_architecture
from headrace_server.model.encoder.shape import read_shape
from headrace_server.model.encoder.weights import count_matrix_weights
from headrace_server.model.encoder.work import decoder_work, encoder_work
from headrace_server.model.work import work_of
from headrace_server.telemetry.lengths import length_bucket
from headrace_server.telemetry.peaks import Peak, peak_of
from headrace_server.telemetry.work import ModelWork, Part
from torch.utils.flop_counter import FlopCounterMode

PROMPT = 40  # tokens


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_operations_are_those_that_torch_counts(tmp_path: Path, family: str, tied: bool) -> None:
    checkpoint = write_checkpoint(tmp_path, family, tie_word_embeddings=tied)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        checkpoint.reference(torch.arange(PROMPT).unsqueeze(0))
    work = work_of(read_architecture(checkpoint.directory), torch.float32)
    products = (work.flops_per_token + work.flops_per_sample) * PROMPT
    attention = work.flops_per_pair * PROMPT * PROMPT  # torch counts the masked half, too
    assert counted.get_total_flops() == products + attention


@pytest.mark.parametrize("cross", [False, True], ids=["an encoder", "a cross-encoder"])
def test_operations_of_texts_are_those_that_torch_counts(tmp_path: Path, cross: bool) -> None:
    """Each position attends to all: nothing is masked."""
    reference = write_cross_encoder(tmp_path)
    body = reference if cross else reference.bert
    if not cross:
        body.pooler = None
        edit_config(tmp_path, architectures=["BertModel"])
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        body(torch.arange(PROMPT).unsqueeze(0))
    shape = read_shape(tmp_path)
    work = encoder_work(shape, torch.bfloat16)
    assert work.flops([Part(0, PROMPT)], samples=1) == counted.get_total_flops()
    assert work.memory([Part(0, PROMPT)] * 3) == work.weight_bytes == 2 * count_matrix_weights(shape)


def test_a_decoder_that_embeds_has_no_output_matrix(tmp_path: Path) -> None:
    shape = read_architecture(write_checkpoint(tmp_path).directory)
    whole, embeds = work_of(shape, torch.float32), decoder_work(shape, torch.float32)
    assert (embeds.flops_per_token, embeds.flops_per_pair) == (whole.flops_per_token, whole.flops_per_pair)
    assert (embeds.flops_per_sample, embeds.kv_bytes_per_token) == (0.0, 0.0)
    assert embeds.weight_bytes < whole.weight_bytes


def test_bytes_are_those_of_the_weights_and_of_the_context(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, tie_word_embeddings=False)
    work = work_of(read_architecture(checkpoint.directory), torch.bfloat16)
    weights = checkpoint.reference.state_dict()
    read = sum(tensor.numel() for name, tensor in weights.items() if "embed_tokens" not in name)
    assert work.weight_bytes == 2 * read
    assert work.kv_bytes_per_token == 2 * (2 * 3 * 2 * 16)  # keys and values, layers, heads, channels


def test_a_prompt_in_chunks_costs_the_operations_of_a_prompt_at_once() -> None:
    work = ModelWork(1.0, 1000.0, 1_000_000.0, 5.0, 1.0)
    whole = work.flops([Part(0, 10)], samples=1)
    chunks = [work.flops([Part(0, 4)], 0), work.flops([Part(4, 5)], 0), work.flops([Part(9, 1)], 1)]
    assert whole == sum(chunks) == 10 + 1000 + 55 * 1_000_000
    assert work.memory([Part(0, 10), Part(7, 1)]) == 5 + (10 + 8) + (10 + 1)


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        pytest.param(peak_of("NVIDIA H200", "bfloat16", None, None), Peak(989e12, 4800e9), id="known by name"),
        pytest.param(peak_of("NVIDIA H200", "float32", None, None), Peak(None, 4800e9), id="not at this dtype"),
        pytest.param(peak_of("NVIDIA H201", "bfloat16", None, None), Peak(None, None), id="not known"),
        pytest.param(peak_of("NVIDIA H200", "bfloat16", 1e12, 2e9), Peak(1e12, 2e9), id="configured comes first"),
        pytest.param(peak_of(None, "float32", None, 2e9), Peak(None, 2e9), id="a CPU, as configured"),
    ],
)
def test_a_peak_is_known_or_told_and_never_guessed(peak: Peak, expected: Peak) -> None:
    assert peak == expected


@pytest.mark.parametrize(
    ("tokens", "bucket"),
    [(0, "0-32"), (32, "0-32"), (33, "33-128"), (8192, "2049-8192"), (32768, "8193-32768"), (32769, "32769+")],
)
def test_a_length_has_one_bucket(tokens: int, bucket: str) -> None:
    assert length_bucket(tokens) == bucket
