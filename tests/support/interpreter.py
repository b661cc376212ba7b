"""A process in which Triton interprets kernels on the CPU. It chooses when it is first imported, for good."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch

Check = Callable[..., None]


@contextmanager
def interpreter() -> Iterator[Check]:
    """Call what is yielded with a check and its arguments: it runs there, its AssertionError comes back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_interpret) as pool:
        yield lambda *call: pool.submit(_run, *call).result()


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # noqa: TID251 - Triton reads it, and this process does nothing else
    torch.set_num_threads(1)


def _run(check: Check, *arguments: object) -> None:
    torch.manual_seed(0)
    check(*arguments)
