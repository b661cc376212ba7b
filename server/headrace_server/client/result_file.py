"""The results of an offline job on disk: one line for each request, whatever moment the process was killed at."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BEGINNING = b'{"id":"batch_req_'  # of every line; see rpc/batches/lines.py


class NotResults(Exception):
    """The file is not what an earlier run of the same job left; says line and remedy."""


class ResultFile:
    """Held by one process at a time. A line counts once `append` has returned: then it is on disk, whole."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises NotResults when another process holds it, or it holds something else."""
        is_new = not path.exists()
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._hold()
            self.statuses = self._read()  # custom_id -> HTTP status; None where no answer came
        except BaseException:
            os.close(self._descriptor)
            raise
        if is_new:
            _sync_directory(path.parent)

    def append(self, result: Mapping[str, Any]) -> None:
        """Raises OSError, such as on a full disk; a part that was written is repaired by the next run."""
        left = memoryview(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        while left:
            left = left[os.write(self._descriptor, left) :]
        os.fsync(self._descriptor)
        self.statuses[result["custom_id"]] = _status(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)  # gives the lock back, too

    def _hold(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise NotResults(
                f"{self._path}: another run writes to it; wait for its end, or name another file"
            ) from held

    def _read(self) -> dict[str, int | None]:
        """Cuts off a last line without its end: that result was never complete, so its request is sent again."""
        statuses: dict[str, int | None] = {}
        whole = 0  # bytes
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._check_torn(number, line)
                    break
                custom_id, status = self._result(number, line)
                if custom_id in statuses:
                    raise NotResults(f"{self._where(number)}: a second result of {custom_id!r}; name another file")
                statuses[custom_id] = status
                whole += len(line)
        os.ftruncate(self._descriptor, whole)
        return statuses

    def _check_torn(self, number: int, line: bytes) -> None:
        """A power cut may leave zeros in a line that was not synced."""
        if not line.startswith(BEGINNING[: len(line)]) and line.strip(b"\0"):
            raise NotResults(f"{self._where(number)}: is not a result of a batch; name another file")

    def _result(self, number: int, line: bytes) -> tuple[str, int | None]:
        try:
            result = json.loads(line)
            return str(result["custom_id"]), _status(result)
        except (ValueError, TypeError, KeyError) as strange:
            raise NotResults(f"{self._where(number)}: is not a result of a batch; name another file") from strange

    def _where(self, number: int) -> str:
        return f"{self._path}: line {number}"


def _status(result: Mapping[str, Any]) -> int | None:
    return None if result["response"] is None else int(result["response"]["status_code"])


def _sync_directory(directory: Path) -> None:
    """Without it a power cut may take the file's name away, and all its lines with it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
