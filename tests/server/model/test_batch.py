"""What the host does for a step."""

import sys
from types import FrameType

import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.engine.sequence import Chunk, Start, Step
from headrace_server.model.batch import pack
from headrace_server.request import Sampling
from models import Model, a_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_position_embeddings=40_000).directory
    return a_model(directory, max_running=4, page_size=16)


def packed_calls(model: Model, step: Step) -> int:
    """How many functions, Python's and C's, packing it calls."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        pack(step, model.loaded.runner._slots, page_size=16)
    finally:
        sys.setprofile(None)
    return calls


def test_decode_costs_the_host_the_same_at_any_context_length(model: Model) -> None:
    slots = range(4)
    for slot in slots:
        model.loaded.runner._slots.start(Start(slot, tuple(range(2500)), Sampling(), queue_wait=0.0))
    short, long = (Step((), tuple(Chunk(slot, start, (), samples=True) for slot in slots)) for start in (20, 39_000))
    packed_calls(model, short)
    assert packed_calls(model, short) == packed_calls(model, long)


def test_tokens_go_to_their_pages_and_decode_reads_what_the_device_chose(model: Model) -> None:
    slots = model.loaded.runner._slots
    slots.start(Start(2, (7, 3), Sampling(), queue_wait=0.0))
    slots.start(Start(0, (5, 9), Sampling(), queue_wait=0.0))
    slots.last_token[2] = 77
    batch = pack(Step((), (Chunk(2, 17, (), samples=True), Chunk(0, 14, (41, 42, 43), samples=False))), slots, 16)
    assert batch.token_ids.tolist() == [77, 41, 42, 43]
    assert batch.positions.tolist() == [17, 14, 15, 16]
    assert batch.cache_rows.tolist() == [3 * 16 + 1, 5 * 16 + 14, 5 * 16 + 15, 9 * 16]
    assert (batch.sampled_rows.tolist(), batch.sampled_slots.tolist()) == ([0], [2])
    assert batch.decode is not None
    assert batch.decode.pages.tolist() == [[7, 3]]
    assert (batch.decode.mask == 0).sum() == 18
    [prefill] = batch.prefills
    assert torch.equal((prefill.mask[0, 0] == 0).sum(dim=-1), torch.tensor([15, 16, 17]))


def test_the_tail_of_a_slot_is_padding_whoever_had_it_before(model: Model) -> None:
    slots = model.loaded.runner._slots
    slots.start(Start(1, tuple(range(100)), Sampling(), queue_wait=0.0))
    slots.start(Start(1, (4,), Sampling(), queue_wait=0.0))
    padding = model.loaded.limits.kv_pages
    assert slots.pages[1].tolist() == [4] + [padding] * 2499
