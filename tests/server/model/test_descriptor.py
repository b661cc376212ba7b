"""What the host does for a step, and how tokens and pages carry over on the device."""

import sys
from types import FrameType

import numpy as np
import pytest
import torch
from headrace_server.engine.sequence import Chunk, Grant, Step
from headrace_server.model.batch import Batch, unpack
from headrace_server.model.descriptor import DescriptorRing
from headrace_server.model.slots import NotWritten, Slots
from steps import a_start

CONTEXT, PAGE, TRASH = 40_000, 16, 999
CPU = torch.device("cpu")


@pytest.fixture
def slots() -> Slots:
    return Slots(4, CONTEXT, PAGE, TRASH, CPU)


@pytest.fixture(scope="module")
def ring() -> DescriptorRing:
    return DescriptorRing(max_tokens=64, pages_each=CONTEXT // PAGE, max_running=4, vocab_size=70, device=CPU)


def on_the_device(ring: DescriptorRing, slots: Slots, step: Step, check: bool = False) -> Batch:
    place, layout = ring.write(step)
    ring.send(place, layout)
    return unpack(ring.read(place, layout), slots, check)


def calls_of_write(ring: DescriptorRing, step: Step) -> int:
    """How many functions, Python's and C's, writing it calls."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        ring.write(step)
    finally:
        sys.setprofile(None)
    return calls


def test_decode_costs_the_host_the_same_at_any_context_length(ring: DescriptorRing) -> None:
    short, long = (Step((), (), tuple(Chunk(slot, at, (), samples=True) for slot in range(4))) for at in (20, 39_000))
    assert calls_of_write(ring, short) == calls_of_write(ring, long)
    assert [ring.write(step)[1].numbers for step in (short, long)] == [16, 16]


def test_tokens_go_to_their_pages_and_decode_reads_what_the_device_chose(ring: DescriptorRing, slots: Slots) -> None:
    grants = (Grant(2, 0, 7), Grant(2, 1, 3), Grant(0, 0, 5), Grant(0, 1, 9))
    slots.tokens[2, 17] = 77
    step = Step((), grants, (Chunk(2, 17, (), samples=True), Chunk(0, 14, (41, 42, 43), samples=False)))
    batch = on_the_device(ring, slots, step)
    assert batch.token_ids.tolist() == [77, 41, 42, 43]
    assert batch.slots.tolist() == [2, 0, 0, 0]
    assert batch.positions.tolist() == [17, 14, 15, 16]
    assert batch.cache_rows.tolist() == [3 * 16 + 1, 5 * 16 + 14, 5 * 16 + 15, 9 * 16]
    assert batch.sampled_rows.tolist() == [0]
    assert (batch.layout.decoding, batch.layout.longest, batch.layout.sampling_slots) == (1, 18, (2,))
    [fill] = batch.layout.fills
    assert (fill.rows, fill.slot, fill.start, fill.end) == (slice(1, 4), 0, 14, 17)
    assert slots.tokens[0, 14:17].tolist() == [41, 42, 43]
    assert slots.pages[2, :3].tolist() == [7, 3, TRASH]


def test_a_step_may_be_written_while_the_one_before_is_read(ring: DescriptorRing) -> None:
    first, second = (Step((), (), (Chunk(0, 0, (token,) * 5, samples=True),)) for token in (1, 2))
    place, layout = ring.write(first)
    ring.send(place, layout)
    ring.write(second)
    assert ring.read(place, layout).rows[2].tolist() == [1] * 5


class TestReadingBeforeWriting:
    """`check`: the proof that every gather was preceded by a write."""

    START = Step((a_start(1),), (Grant(1, 0, 0),), (Chunk(1, 0, (5, 6), samples=True),))
    NEXT = Step((), (), (Chunk(1, 2, (), samples=True),))

    def test_is_found(self, ring: DescriptorRing, slots: Slots) -> None:
        on_the_device(ring, slots, self.START, check=True)
        with pytest.raises(NotWritten, match=r"rows \[0\]"):
            on_the_device(ring, slots, self.NEXT, check=True)

    def test_carry_over_is_a_write(self, ring: DescriptorRing, slots: Slots) -> None:
        on_the_device(ring, slots, self.START, check=True)
        slots.keep(torch.tensor([1]), torch.tensor([2]), torch.tensor([42]))
        assert on_the_device(ring, slots, self.NEXT, check=True).token_ids.tolist() == [42]

    def test_what_the_slots_last_owner_wrote_does_not_count(self, ring: DescriptorRing, slots: Slots) -> None:
        slots.tokens[1, 2] = 42
        slots.start(self.START.starts[0])
        on_the_device(ring, slots, Step((), self.START.grants, self.START.chunks), check=True)
        with pytest.raises(NotWritten):
            on_the_device(ring, slots, self.NEXT, check=True)


def test_masks_travel_with_the_rows_that_they_are_for(ring: DescriptorRing) -> None:
    masks = [np.array([row, -row, row + 5], dtype=np.int32) for row in (1, 2)]
    step = Step(
        (),
        (),
        (
            Chunk(0, 9, (), samples=True),
            Chunk(1, 9, (), samples=True, mask=masks[0]),
            Chunk(2, 0, (41, 42), samples=False),
            Chunk(3, 0, (43,), samples=True, mask=masks[1]),
        ),
    )
    place, layout = ring.write(step)
    ring.send(place, layout)
    described = ring.read(place, layout)
    assert described.sampled_rows.tolist() == [0, 1, 4]
    assert described.masked_rows.tolist() == [1, 2]
    assert described.masks.tolist() == [[1, -1, 6], [2, -2, 7]]
