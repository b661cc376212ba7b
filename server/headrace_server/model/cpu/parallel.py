"""Runs a compiled function in torch's own pool of threads.

A second pool beside it would fight for the same cores: torch's threads spin for a while after each of their operations.
"""

import ctypes
from pathlib import Path

import torch

OPENMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"  # the copy that torch has loaded
_openmp = ctypes.CDLL(str(OPENMP)) if OPENMP.exists() else None


def is_available() -> bool:
    """torch's wheels for Linux carry GNU OpenMP; a build with another one does without this."""
    return _openmp is not None


def thread_number() -> "ctypes._FuncPointer":
    """int(): from 0 in the calling thread, inside of what `in_parallel` runs."""
    return _integer("omp_get_thread_num")


def thread_count() -> "ctypes._FuncPointer":
    return _integer("omp_get_num_threads")


def in_parallel(function: int, data: int, threads: int) -> None:
    """Calls the C function void(void *data) once in each of `threads` threads; returns when all are done.

    Releases the interpreter. The pool belongs to the calling thread, as torch's does.
    """
    assert _openmp is not None
    _openmp.GOMP_parallel(ctypes.c_void_p(function), ctypes.c_void_p(data), threads, 0)


def _integer(name: str) -> "ctypes._FuncPointer":
    function = getattr(_openmp, name)
    function.argtypes, function.restype = (), ctypes.c_int
    return function  # type: ignore[no-any-return]
