"""Files that may change while the server runs: keys, certificates. What they say, or last said that made sense.

Looked at again and again, because no notification survives how Kubernetes updates a mounted Secret: it swaps a symbolic
link far above the file.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics

LOOK_EVERY = 1.0  # seconds
log = logging.getLogger(__name__)
T = TypeVar("T")
State = tuple[tuple[int, int, int, int] | None, ...]


class FileKind(StrEnum):
    """Label `file` of headrace_reloads and headrace_reload_ok."""

    API_KEYS = "api_keys"
    TLS = "tls"
    CRL = "crl"


class Watched(Generic[T]):
    def __init__(self, kind: FileKind, paths: Sequence[Path], load: Callable[[], T], metrics: ServerMetrics) -> None:
        """`load` reads them all. Raises ModelRefused, as `load` does."""
        self._kind = kind
        self._paths = paths
        self._load = load
        self._metrics = metrics
        # Before the files are read: whatever changes from here on will be seen as a change.
        self._seen = self._state()
        self._refused: State | None = None
        self.value = load()
        metrics.reload_ok.labels(kind).set(1)

    def look(self) -> None:
        """Keeps the old value when the new files make no sense, and tries again at the next look."""
        state = self._state()
        if state == self._seen and self._refused is None:
            return
        try:
            self.value = self._load()
        except Exception as error:  # of any kind: what a library did not foresee must not end the watch over all files
            self._refuse(state, error)
            return
        self._seen, self._refused = state, None
        self._metrics.reloads.labels(self._kind, "done").inc()
        self._metrics.reload_ok.labels(self._kind).set(1)
        log.info("%s: read again", self._kind)

    def _refuse(self, state: State, error: Exception) -> None:
        if state == self._refused:  # said already
            return
        self._refused = state
        self._metrics.reloads.labels(self._kind, "refused").inc()
        self._metrics.reload_ok.labels(self._kind).set(0)
        unforeseen = None if isinstance(error, ModelRefused) else error
        log.error("%s: what was read before still holds: %s", self._kind, error, exc_info=unforeseen)

    def _state(self) -> State:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """Of what the path leads to now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


async def keep_watching(watched: Sequence[Watched[object]], every: float = LOOK_EVERY) -> None:
    """Until cancelled. `every` in seconds."""
    while True:
        await asyncio.sleep(every)
        for one in watched:
            await asyncio.to_thread(one.look)
