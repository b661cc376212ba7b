"""The server has cores to itself: what it takes to ask must not count as what the server takes to answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def half_of_the_cores() -> Iterator[int]:
    """What is started inside has the first half of this process's cores for good, and this process the others from now
    on. Yields how many they are; 0 on a machine with one core, where nothing is kept apart."""
    mine = sorted(os.sched_getaffinity(0))
    theirs = mine[: len(mine) // 2]
    if not theirs:
        yield 0
        return
    os.sched_setaffinity(0, theirs)
    try:
        yield len(theirs)
    finally:
        os.sched_setaffinity(0, mine[len(theirs) :])
