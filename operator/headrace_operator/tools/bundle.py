"""One file with everything that was collected, and what was not, in the order of its names."""

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

READABLE_BY_ITS_OWNER = 0o600


@dataclass(slots=True)
class Bundle:
    """Texts by file name below `folder`."""

    folder: str
    files: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # what -> why

    def write(self, path: Path, now: float) -> None:
        """Raises FileExistsError rather than overwrite. `now`: epoch seconds, every file's time."""
        with path.open("xb") as file:
            path.chmod(READABLE_BY_ITS_OWNER)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name in sorted(self.files):
                    data = self.files[name].encode()
                    member = tarfile.TarInfo(f"{self.folder}/{name}")
                    member.size, member.mtime, member.mode = len(data), int(now), READABLE_BY_ITS_OWNER
                    archive.addfile(member, io.BytesIO(data))
