"""Decode steps captured once per batch size and replayed: the host then launches one graph, not hundreds of kernels.

    captured first          8 rows   whose memory the smaller ones use again, since all are in one pool
                            4 rows
                            2 rows
                            1 row
    a step of 3 requests -> 4 rows: 3 of the step, 1 of padding, which reads and writes only a page that nobody owns

A graph reads its inputs from buffers that stay where they are, and leaves what it computes in such buffers too. Graphs
of one pool must not run at the same time: replay them on one stream.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor

Replay = Callable[[], None]
Record = Callable[[Replay], Replay]


@dataclass(frozen=True, slots=True)
class StaticInput:
    held: Tensor  # (max_running, ...), the place that every graph reads
    padding: Tensor  # (...), what a row without a request holds: the trash page, position 0, greedy


class DecodeGraphs:
    def __init__(
        self, inputs: tuple[StaticInput, ...], step: Callable[[int], None], record: Record = lambda step: step
    ) -> None:
        """`step(rows)` enqueues one decode step of the first `rows` rows of the inputs, sampling included.

        It may not wait for the device, and leaves its result in tensors that exist before. `record` makes it
        replayable; the default runs it anew each time, as a device without graphs must.
        """
        self._inputs = inputs
        self._sizes = decode_sizes(len(inputs[0].held))
        self._pad(0, self._sizes[-1])
        self._graphs = {rows: record(partial(step, rows)) for rows in reversed(self._sizes)}

    def launch(self, given: tuple[Tensor, ...]) -> None:
        """For each input, (rows, ...) on its device or in pinned memory. Returns before the device is done.

        Raises ValueError for no row, or more rows than the inputs hold.
        """
        rows = len(given[0])
        if not 0 < rows <= self._sizes[-1]:
            raise ValueError(f"a decode step has 1 to {self._sizes[-1]} rows, got {rows}")
        size = self.size(rows)
        for place, values in zip(self._inputs, given, strict=True):
            place.held[:rows].copy_(values, non_blocking=True)
        self._pad(rows, size)
        self._graphs[size]()

    def size(self, rows: int) -> int:
        """Rows of the graph that so many are computed by."""
        return self._sizes[bisect_left(self._sizes, rows)]

    def _pad(self, rows: int, size: int) -> None:
        for place in self._inputs:
            place.held[rows:size] = place.padding


def decode_sizes(max_running: int) -> list[int]:
    """1, 2, 4, ... and max_running itself: few to capture, and never more than half of a step is padding."""
    doubled = takewhile(lambda rows: rows < max_running, (2**power for power in range(max_running)))
    return [*doubled, max_running]


class CudaRecorder:
    """Captures steps into CUDA graphs of one memory pool, on one stream, as sharing a pool asks for."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """`stream`: the one on which the graphs will be replayed, not the default one."""
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Replay) -> Replay:
        """Runs `step` once before it is captured: what is compiled or allocated at first use must not be captured."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            step()
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of the server may allocate pinned memory meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            step()
        return graph.replay
