"""How other processes find a running cluster: a lock in its directory, held while anything of it lives, and a note."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from cluster.waiting import DeadlineMissed, wait_until

LEFTOVERS_END = 20.0  # seconds for the processes of a killed cluster to be gone


class DirectoryInUse(RuntimeError):
    pass


@dataclass(frozen=True, slots=True)
class Running:
    """The note that a started cluster leaves in its directory."""

    kubeconfig: str
    kubectl: str
    helm: str

    def save(self, directory: Path) -> None:
        unfinished = directory / "running.unfinished"
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.rename(_note(directory))

    @classmethod
    def load(cls, directory: Path) -> "Running":
        """Raises LookupError when no cluster runs in the directory, or when it is not ready yet."""
        if not is_locked(directory) or not _note(directory).exists():
            raise LookupError(f"no local cluster is ready in {directory}; `python -m cluster up` starts one")
        return cls(**json.loads(_note(directory).read_text()))


def lock(directory: Path) -> TextIO:
    """Claim the directory. Held until every process that the file was handed to has closed it.

    Waits a little for what a killed cluster left; raises DirectoryInUse when another cluster runs there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _lock(directory).open("a+")
    try:
        wait_until("the directory's lock", lambda: _try(file), timeout=LEFTOVERS_END, evidence=str)
    except DeadlineMissed as error:
        file.close()
        raise DirectoryInUse(f"{directory} is used by another cluster that runs: stop it or name another") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _note(directory).unlink(missing_ok=True)
    return file


def is_locked(directory: Path) -> bool:
    if not _lock(directory).exists():
        return False
    with _lock(directory).open() as file:
        try:
            return not _try(file)
        except BlockingIOError:
            return True


def owner(directory: Path) -> int:
    """The process id of the cluster's owner, who may have just died. Raises LookupError when nothing runs there."""
    if not is_locked(directory):
        raise LookupError(f"no local cluster runs in {directory}")
    return int(_lock(directory).read_text())


def _try(file: TextIO) -> bool:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _lock(directory: Path) -> Path:
    return directory / "lock"


def _note(directory: Path) -> Path:
    return directory / "running.json"
