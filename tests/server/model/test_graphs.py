"""Which size a decode step is run at, and that padding touches nobody's state. Recorded steps are run anew here."""

from dataclasses import dataclass

import pytest
import torch
from headrace_server.model.graphs import DecodeGraphs, Replay, StaticInput, decode_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

MAX_RUNNING = 6
TRASH = 9  # the slot that belongs to nobody


@dataclass
class Counter:
    """A step that adds each row's amount to its slot's total, and remembers how many rows it ran."""

    slots: Tensor
    amounts: Tensor
    totals: Tensor
    ran: list[int]

    def __call__(self, rows: int) -> None:
        self.ran.append(rows)
        self.totals.index_add_(0, self.slots[:rows], self.amounts[:rows])


def a_counter() -> tuple[Counter, tuple[StaticInput, ...]]:
    slots, amounts = torch.zeros(MAX_RUNNING, dtype=torch.int64), torch.zeros(MAX_RUNNING)
    inputs = (StaticInput(slots, torch.tensor(TRASH)), StaticInput(amounts, torch.tensor(1.0)))
    return Counter(slots, amounts, torch.zeros(TRASH + 1), []), inputs


@pytest.mark.parametrize(
    ("max_running", "sizes"),
    [
        pytest.param(1, [1], id="one request"),
        pytest.param(6, [1, 2, 4, 6], id="between powers of two"),
        pytest.param(32, [1, 2, 4, 8, 16, 32], id="a power of two"),
    ],
)
def test_sizes_double_up_to_max_running(max_running: int, sizes: list[int]) -> None:
    assert decode_sizes(max_running) == sizes


def test_the_largest_is_recorded_first_and_recording_sees_padding_only() -> None:
    counter, inputs = a_counter()
    recorded = []

    def record(step: Replay) -> Replay:
        step()
        recorded.append(counter.ran[-1])
        return step

    DecodeGraphs(inputs, counter, record)
    assert recorded == [6, 4, 2, 1]
    assert counter.totals.tolist() == [0.0] * TRASH + [13.0]


@settings(deadline=None)
@given(steps=st.lists(st.lists(st.integers(0, TRASH - 1), min_size=1, max_size=MAX_RUNNING, unique=True), max_size=8))
def test_a_step_runs_at_the_next_size_and_only_its_own_rows_count(steps: list[list[int]]) -> None:
    counter, inputs = a_counter()
    graphs = DecodeGraphs(inputs, counter)
    expected = [0.0] * TRASH
    for slots in steps:
        graphs.launch((torch.tensor(slots), torch.tensor([float(slot + 1) for slot in slots])))
        for slot in slots:
            expected[slot] += slot + 1
        assert counter.ran[-1] == min(size for size in (1, 2, 4, 6) if size >= len(slots))
    assert counter.totals[:TRASH].tolist() == expected
    padded = sum(counter.ran) - sum(map(len, steps))
    assert counter.totals[TRASH] == padded


@pytest.mark.parametrize("rows", [0, MAX_RUNNING + 1])
def test_a_step_of_another_size_is_refused(rows: int) -> None:
    counter, inputs = a_counter()
    with pytest.raises(ValueError, match=f"a decode step has 1 to 6 rows, got {rows}"):
        DecodeGraphs(inputs, counter).launch((torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)))
