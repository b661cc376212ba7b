"""Rows that a step computes for nobody are counted, by those who add them."""

import pytest
import torch
from headrace_server.model.graphs import DecodeGraphs, StaticInput


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 12), (12, 12)])
def test_a_decode_step_is_as_large_as_the_graph_that_replays_it(rows: int, size: int) -> None:
    ran: list[int] = []
    nobody = torch.tensor(0, dtype=torch.int32)
    graphs = DecodeGraphs((StaticInput(nobody.repeat(12), nobody),), ran.append)
    graphs.launch((torch.ones(rows, dtype=torch.int32),))
    assert ran == [graphs.size(rows)] == [size]
