"""Captured decode steps: replayed on new inputs, padding in nobody's page, and no wait for the device in a launch."""

from dataclasses import dataclass

import pytest
import torch
from headrace_server.model.graphs import CudaRecorder, DecodeGraphs, StaticInput
from headrace_server.model.kernels.layout import Packed
from headrace_server.model.kernels.paged_attention import attend_paged, attend_paged_in_torch
from headrace_server.model.kernels.rope_write import Places, rope_write
from kernel_cases import a_tensor, equal
from torch import Tensor

pytestmark = pytest.mark.gpu
MAX_RUNNING, PAGES_EACH, PAGE, MAX_CONTEXT = 6, 4, 256, 1024
TRASH = MAX_RUNNING * PAGES_EACH  # the last page


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's rotation, write and attention, as a decode step has them. Sequence i owns pages 4 i to 4 i + 3."""

    projected: Tensor  # (MAX_RUNNING, 48, 128)
    positions: Tensor  # int32 (MAX_RUNNING)
    block_table: Tensor  # int32 (MAX_RUNNING, PAGES_EACH)
    keys: Tensor  # (pages + 1, PAGE, 8, 128)
    values: Tensor
    cos: Tensor
    sin: Tensor
    found: Tensor  # (MAX_RUNNING, 32, 128)

    def __call__(self, rows: int) -> None:
        positions = self.positions[:rows]
        table = self.block_table[:rows]
        pages = table.gather(1, (positions // PAGE).long().unsqueeze(1)).squeeze(1)
        places = Places(positions, pages * PAGE + positions % PAGE, self.cos, self.sin)
        queries = rope_write(self.projected[:rows], places, self.keys, self.values, None)
        self.found[:rows] = attend_paged(queries, self.keys, self.values, self.packed(rows))

    def packed(self, rows: int) -> Packed:
        each_one = torch.arange(rows + 1, dtype=torch.int32, device=self.positions.device)
        return Packed(each_one, self.positions[:rows] + 1, self.block_table[:rows], 1, MAX_CONTEXT)

    @property
    def inputs(self) -> tuple[StaticInput, ...]:
        return (
            StaticInput(self.projected, torch.zeros_like(self.projected[0])),
            StaticInput(self.positions, torch.zeros_like(self.positions[0])),
            StaticInput(self.block_table, torch.full_like(self.block_table[0], TRASH)),
        )


@pytest.fixture
def layer(device: str) -> Layer:
    half = torch.bfloat16
    angles = torch.rand(MAX_CONTEXT, 64, device=device)
    pool = [a_tensor(TRASH + 1, PAGE, 8, 128, dtype=half, device=device) for _ in range(2)]
    return Layer(
        projected=torch.zeros(MAX_RUNNING, 48, 128, dtype=half, device=device),
        positions=torch.zeros(MAX_RUNNING, dtype=torch.int32, device=device),
        block_table=torch.full((MAX_RUNNING, PAGES_EACH), TRASH, dtype=torch.int32, device=device),
        keys=pool[0],
        values=pool[1],
        cos=angles.cos(),
        sin=angles.sin(),
        found=torch.zeros(MAX_RUNNING, 32, 128, dtype=half, device=device),
    )


def test_each_replay_computes_its_own_step_and_writes_only_its_own_rows(layer: Layer) -> None:
    graphs = DecodeGraphs(layer.inputs, layer, CudaRecorder(torch.cuda.Stream()))
    for positions in ((0,), (1023, 511, 256), (5, 6, 7, 8, 9, 10), (300, 2)):
        given = _a_step(layer, positions)
        before = layer.keys.clone()
        graphs.launch(given)
        rows = len(positions)
        equal(layer.found[:rows], _expected(layer, given))
        written = (layer.keys != before).flatten(2).any(-1).nonzero().tolist()
        owned = [[sequence * PAGES_EACH + at // PAGE, at % PAGE] for sequence, at in enumerate(positions)]
        assert [place for place in written if place[0] != TRASH] == owned


def test_a_launch_never_waits_for_the_device(layer: Layer) -> None:
    graphs = DecodeGraphs(layer.inputs, layer, CudaRecorder(torch.cuda.Stream()))
    given = _a_step(layer, (700, 3, 90))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            graphs.launch(given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _a_step(layer: Layer, positions: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    device = layer.found.device
    rows = len(positions)
    projected = a_tensor(rows, 48, 128, dtype=torch.bfloat16, device=str(device))
    table = torch.arange(rows * PAGES_EACH, dtype=torch.int32, device=device).view(rows, PAGES_EACH)
    return projected, torch.tensor(positions, dtype=torch.int32, device=device), table


def _expected(layer: Layer, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """From the pages as the replay left them: the step's own keys are there."""
    projected, positions, table = given
    cos, sin = (turn[positions.long()].unsqueeze(1) for turn in (layer.cos, layer.sin))
    first, second = projected[:, :32].float().chunk(2, dim=-1)
    queries = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).bfloat16()
    each_one = torch.arange(len(positions) + 1, dtype=torch.int32, device=positions.device)
    packed = Packed(each_one, positions + 1, table, 1, MAX_CONTEXT)
    return attend_paged_in_torch(queries, layer.keys, layer.values, packed)
