"""`headrace` as a process of its own, run to its end beside an event loop that serves it."""

import asyncio
import subprocess
from collections.abc import Sequence

from served_process import HEADRACE, PATIENCE, environment


async def headrace(words: Sequence[str], typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`typed`: its standard input."""
    return await asyncio.to_thread(
        subprocess.run,
        [str(HEADRACE), *words],
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**variables),
        check=False,
    )
