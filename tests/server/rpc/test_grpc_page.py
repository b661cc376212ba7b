"""docs/grpc.md says what is so: its examples run, and every method and reason is named."""

import asyncio
import re
from pathlib import Path

from embed_server import embed_server
from headrace_server.errors import Refusal
from headrace_server.rpc.pb import inference_pb2, oip_pb2
from open_server import NAME
from served_process import serve_command, served

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "grpc.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


async def test_the_examples_run(tmp_path: Path, model: Path) -> None:
    served_model = ROOT / "examples" / "models" / "scripture-1m"
    async with served(serve_command(served_model), tmp_path) as server, embed_server(model) as embedder:
        code = "\n".join(EXAMPLES)
        for written, real in {
            '"127.0.0.1:50051"': f'"{server.grpc}"',
            '"127.0.0.1:50052"': f'"{embedder.grpc}"',
            '"minilm"': f'"{NAME}"',
        }.items():
            assert written in code
            code = code.replace(written, real)
        await asyncio.to_thread(exec, compile(code, "docs/grpc.md", "exec"), {})


def test_every_method_and_reason_is_named() -> None:
    services = (
        inference_pb2.DESCRIPTOR.services_by_name["Inference"],
        oip_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    )
    named = [method.name for service in services for method in service.methods]
    assert [name for name in [*named, *(each.name for each in Refusal)] if f"`{name}`" not in PAGE] == []
