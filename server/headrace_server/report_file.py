"""Where a command leaves its result: looked at before the minutes that it takes to have one."""

import os
import sys
from pathlib import Path

from headrace_server.evaluation import BadFile


def check_place(where: str | None) -> None:
    """`where`: as --json says it; None: nothing is written. Raises BadFile when nothing can be."""
    if where is None or where == "-":
        return
    path = Path(where)
    folder = path.parent
    if not folder.is_dir():
        raise BadFile(f"--json={where}: {folder} is no folder; make it first, or name another file")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise BadFile(f"--json={where}: cannot be written to; name another file")


def leave(where: str, text: str) -> None:
    """- is standard output. Raises OSError."""
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).write_text(text, encoding="utf-8")
