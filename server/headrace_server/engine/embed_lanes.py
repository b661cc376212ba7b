"""What the threads of an embedder do: take a batch, launch it, wait for the one before, tell. The device never waits.

    host      tokenise ... │ pack 2 │ wait 1 ... │ tell 1 │ pack 3 │ wait 2 ...
    device    ▄▄▄▄▄▄ batch 1 ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄ │▄▄▄▄▄▄▄ batch 2 ▄▄▄▄▄▄▄▄▄▄▄▄

So a batch takes max(compute, fetch) and not their sum. A second batch is launched behind the one that computes only
when it is full: one that is not can still take in whoever comes meanwhile, and there is no hurry where no work waits.
"""

import threading
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Row
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_server.engine.admission import Backlog
from headrace_server.engine.embed_plan import Batch, Planner
from headrace_server.engine.sequence import Sequence
from headrace_server.engine.window import BatchingWindow
from headrace_server.request import Priority


@dataclass(frozen=True, slots=True)
class Computed:
    vectors: NDArray[np.float32]  # (texts, dimensions), on the host
    busy: float  # seconds that the device computed
    gap: float  # seconds that it had stood still before, since the batch before; 0 for the first
    padded: int = 0  # tokens computed besides those of the texts


class Outcome(Protocol):
    def wait(self) -> Computed:
        """Sleeps until the device is done. Raises what broke the batch."""


class Lane(Protocol):
    def launch(self, texts: Row[Row[int]]) -> Outcome:
        """Hands token ids to the device and returns at once."""


@dataclass(frozen=True, slots=True)
class News:
    """What a lane tells the event loop."""

    now: float  # seconds on the engine's clock
    batch: Batch
    computed: Computed
    fetch: float  # seconds that the host needed to pack the batch and to launch it
    seconds: float  # from its launch or the end of the one before, whichever is later
    gap: float  # seconds that the device stood still although there was work


class Feed:
    """The planner, shared by the event loop and the threads of the lanes."""

    def __init__(self, planner: Planner, window: BatchingWindow, clock: Callable[[], float]) -> None:
        self._window = window
        self.planner = planner  # gauges read it; only what is here changes it
        self._clock = clock
        self._changed = threading.Condition()
        self._stopped = False
        self.running = dict.fromkeys(Priority, 0)  # texts in batches that were taken and not told yet

    def add(self, texts: Iterable[Sequence]) -> None:
        with self._changed:
            for text in texts:
                self.planner.add(text)
                self._window.arrived(text.request.arrived_at)
            self._changed.notify()

    def drop(self, texts: Iterable[Sequence]) -> list[Sequence]:
        """Those of them who still waited; they do no more."""
        with self._changed:
            waited = [text for text in texts if text.queue_wait is None]
            for text in waited:
                self.planner.drop(text)
        return waited

    def take(self, *, waits: bool) -> Batch | None:
        """The next batch, as soon as there is one; without `waits` only a full one that is there already. None: there
        is none, or `stop` was called."""
        with self._changed:
            if waits:
                self._changed.wait_for(lambda: self._stopped or len(self.planner))
                self._wait_for_others()
            elif not self.planner.fills_a_batch:
                return None
            if self._stopped:
                return None
            batch = self.planner.take(self._clock())
            self._count_running(batch, 1)
            if len(self.planner):
                self._changed.notify()  # another lane may begin with what is left
            return batch

    def _wait_for_others(self) -> None:
        """As long as the batching window says that it pays."""
        while len(self.planner) and not self._stopped and not self.planner.fills_a_batch:
            now = self._clock()
            left = self._window.until(now - self.planner.oldest_waiting(now)) - now
            if left <= 0:
                return
            self._changed.wait(left)

    def told(self, batch: Batch) -> None:
        """It is done."""
        with self._changed:
            self._count_running(batch, -1)

    def _count_running(self, batch: Batch | None, change: int) -> None:
        for text in () if batch is None else batch.texts:
            self.running[text.request.priority] += change

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def backlog(self) -> Backlog:
        with self._changed:
            return self.planner.backlog(self._clock())


@dataclass(frozen=True, slots=True)
class _InFlight:
    batch: Batch
    outcome: Outcome
    launched_at: float
    fetch: float
    follows: bool  # directly after another batch: a gap before it is the host's fault


def run_lane(lane: Lane, feed: Feed, clock: Callable[[], float], tell: Callable[[News], None]) -> None:
    """Until the feed is stopped. Raises what breaks a batch."""
    previous: _InFlight | None = None
    last_end = 0.0
    while not feed.stopped:
        batch = feed.take(waits=previous is None)
        current = None if batch is None else _launched(lane, batch, clock, follows=previous is not None)
        if previous is not None:
            computed = previous.outcome.wait()
            now = clock()
            seconds = now - max(previous.launched_at, last_end)
            gap = computed.gap if previous.follows else 0.0
            last_end = now
            feed.told(previous.batch)
            tell(News(now, previous.batch, computed, previous.fetch, seconds, gap))
        previous = current


def _launched(lane: Lane, batch: Batch, clock: Callable[[], float], *, follows: bool) -> _InFlight:
    began = clock()
    outcome = lane.launch([text.request.prompt for text in batch.texts])
    launched_at = clock()
    return _InFlight(batch, outcome, launched_at, launched_at - began, follows)
