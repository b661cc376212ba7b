"""docs/api-guide.md: its blocks run in order, as a reader would paste them, against a real server."""

import asyncio
import re
from pathlib import Path

from served_process import NAME, serve_command, served

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api-guide.md"
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))


async def test_the_guide_runs(tmp_path: Path) -> None:
    async with served(serve_command(ROOT / "examples" / "models" / "scripture-1m"), tmp_path) as server:
        code = CODE
        real = {"127.0.0.1:8000": server.http, "127.0.0.1:50051": server.grpc, '"scripture"': f'"{NAME}"'}
        for written, found in real.items():
            assert written in code
            code = code.replace(written, found)
        await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), {})
