"""How a step runs beside the host: three streams and events on CUDA, the same protocol with a thread on a CPU."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headrace_server.model.graphs import CudaRecorder, Record, Replay


@dataclass(frozen=True, slots=True)
class Work:
    copy_in: Callable[[], None]
    compute: Callable[[], tuple[Tensor, ...]]  # on the device; what the host wants of them


@dataclass(frozen=True, slots=True)
class Done:
    tensors: tuple[Tensor, ...]  # on the host
    busy: float  # seconds that the device computed
    gap: float  # seconds that it had stood still before, since the work before; 0 for the first


class Launched(Protocol):
    def wait(self) -> Done:
        """Sleeps until the device is done. Raises what broke the work."""


class Device(Protocol):
    def launch(self, work: Work) -> Launched:
        """Works are computed one after the other, in the order in which they were launched."""

    def recorder(self) -> Record:
        """Makes pieces of work replayable as part of a `Work.compute`."""


class CpuDevice:
    """The worker thread is the device; torch and the kernels release the interpreter while they compute."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        """`prepare` runs first in the worker thread: thread counts and cores are settings of a thread."""
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward", initializer=prepare)
        self._ended_at: float | None = None

    def launch(self, work: Work) -> Launched:
        return _Awaited(self._worker.submit(self._run, work))

    def recorder(self) -> Record:
        return _anew

    def _run(self, work: Work) -> Done:
        began = time.perf_counter()
        with torch.inference_mode():
            work.copy_in()
            tensors = _computed(work)
        ended = time.perf_counter()
        gap = 0.0 if self._ended_at is None else began - self._ended_at
        self._ended_at = ended
        return Done(tensors, ended - began, gap)


def _computed(work: Work) -> tuple[Tensor, ...]:
    """Raises MemoryError when memory ran out, on whichever device: the engine knows no torch."""
    try:
        return work.compute()
    except RuntimeError as fault:
        if isinstance(fault, torch.OutOfMemoryError) or "can't allocate memory" in str(fault):  # GPU, CPU
            raise MemoryError(str(fault)) from fault
        raise


def _anew(step: Replay) -> Replay:
    return step


@dataclass(frozen=True, slots=True)
class _Awaited:
    future: "Future[Done]"

    def wait(self) -> Done:
        return self.future.result()


class CudaDevice:
    """Nothing here waits but `wait`, and that sleeps: a spinning host would take a core from the doors."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copy_in = _stream(device)
        self._compute = _stream(device)
        self._copy_out = _stream(device)
        self._last_end: torch.cuda.Event | None = None

    def launch(self, work: Work) -> Launched:
        with torch.inference_mode():
            # What the tables and weights were filled with, on the stream that was current then.
            self._copy_in.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._copy_in):
                work.copy_in()
            self._compute.wait_stream(self._copy_in)
            with torch.cuda.stream(self._compute):
                began = _recorded(timing=True)
                found = _computed(work)
                ended = _recorded(timing=True)
            self._copy_out.wait_stream(self._compute)
            with torch.cuda.stream(self._copy_out):
                host = tuple(self._copied(tensor) for tensor in found)
                copied = _recorded(timing=False)
        outcome = _OnCuda(host, copied, began, ended, self._last_end)
        self._last_end = ended
        return outcome

    def recorder(self) -> Record:
        return CudaRecorder(self._compute)

    def _copied(self, tensor: Tensor) -> Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._copy_out)
        return host


@dataclass(frozen=True, slots=True)
class _OnCuda:
    host: tuple[Tensor, ...]
    copied: torch.cuda.Event
    began: torch.cuda.Event
    ended: torch.cuda.Event
    ended_before: torch.cuda.Event | None

    def wait(self) -> Done:
        self.copied.synchronize()
        gap = 0.0 if self.ended_before is None else self.ended_before.elapsed_time(self.began) / 1000
        return Done(self.host, self.began.elapsed_time(self.ended) / 1000, max(0.0, gap))


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _recorded(timing: bool) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=timing, blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
