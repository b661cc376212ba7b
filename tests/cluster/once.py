"""Makes a file or folder once, however many processes ask for it, and never leaves a half-made one behind."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

Report = Callable[[str], None]


def once(place: Path, make: Callable[[Path], None], report: Report) -> Path:
    """`place`, which `make` writes at a path of the same name beside it unless it is there already."""
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.with_name(f"{place.name}.lock"), report):
        if not place.exists():  # else another process made it while we waited
            with TemporaryDirectory(prefix=".unfinished-", dir=place.parent) as folder:
                unfinished = Path(folder) / place.name
                make(unfinished)
                unfinished.rename(place)
    return place


@contextmanager
def _alone(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Another process is making {lock.with_suffix('')}: waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
