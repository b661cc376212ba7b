"""docs/openai.md says what is so: its examples run against a served model, and its list of fields is complete."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from embed_server import embed_server
from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import IGNORED, UNSERVED
from headrace_server.rpc.openapi import OPERATIONS
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from pydantic import BaseModel
from served_process import NAME, serve_command, served

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "openai.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TEMPLATE = """{% if tools %}{{ tools | tojson }} <tool_call>{"name": "", "arguments": {}}</tool_call>{% endif %}\
{% for message in messages %}{{ message.role }} {{ message.content }} {{ message.tool_calls }}
{% endfor %}"""


async def test_the_examples_run(tmp_path: Path, model: Path) -> None:
    served_model = tmp_path / "model"
    shutil.copytree(ROOT / "examples" / "models" / "scripture-1m", served_model)
    (served_model / "chat_template.jinja").write_text(TEMPLATE)
    async with served(serve_command(served_model), tmp_path) as server, embed_server(model) as embedder:
        addresses = {"http://127.0.0.1:8000": f"http://{server.http}", "http://127.0.0.1:8001": embedder.http}
        names = {'"scripture"': f'"{NAME}"', '"embedder"': f'"{NAME}"'}
        code = "\n".join(EXAMPLES)
        for written, real in {**addresses, **names}.items():
            assert written in code
            code = code.replace(written, real)
        await asyncio.to_thread(exec, compile(code, "docs/openai.md", "exec"), {})


@pytest.mark.parametrize("body", [CompletionBody, ChatBody, EmbeddingBody, RerankBody, ScoreBody])
def test_every_field_is_named(body: type[BaseModel]) -> None:
    assert [name for name in body.model_fields if f"`{name}`" not in PAGE] == []


def test_what_is_ignored_refused_and_served_is_named() -> None:
    named = [*IGNORED, *UNSERVED, *(one.path for one in OPERATIONS)]
    assert [name for name in named if not re.search(rf"[` ]{re.escape(name)}`", PAGE)] == []
