"""A checkpoint's chat template, wherever it is written and whatever it tries."""

import json
from pathlib import Path
from typing import Any

import pytest
from headrace_server.errors import InvalidRequest
from headrace_server.rpc.ask import Chat
from headrace_server.rpc.chat_template import load_chat_template

MESSAGES = ({"role": "user", "content": "Ünd <tag>"},)


def rendered(directory: Path, **config: Any) -> str:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return load_chat_template(directory).render(Chat(MESSAGES))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param("{{ messages[0]['content'] }}", "Ünd <tag>", id="text is not escaped for HTML"),
        pytest.param("{{ messages[0] | tojson }}", '{"role": "user", "content": "Ünd <tag>"}', id="nor is JSON"),
        pytest.param("{{ bos_token }}|{{ eos_token }}", "<s>|</s>", id="special tokens, written either way"),
        pytest.param("{% for m in messages %}\n  {% break %}\n{% endfor %}end", "end", id="loop controls and trimming"),
        pytest.param("{{ add_generation_prompt }}", "True", id="the assistant's turn begins"),
    ],
)
def test_templates_render_as_hugging_face_renders_them(tmp_path: Path, template: str, text: str) -> None:
    config = {"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}
    assert rendered(tmp_path, **config) == text


def test_the_default_of_several_templates_is_used(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert rendered(tmp_path, chat_template=named) == "plain"


def test_a_template_file_comes_before_the_config(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert rendered(tmp_path, chat_template="from the config") == "from the file"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        pytest.param("{{ raise_exception('roles must alternate') }}", "roles must alternate", id="by its own word"),
        pytest.param("{{ messages.__class__.__mro__ }}", "unsafe", id="reaching for Python"),
        pytest.param("{{ messages.append(1) }}", "unsafe", id="changing what it was given"),
        pytest.param("{{ messages[7]['role'] }}", "undefined|no element", id="a message that is not there"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_blames_the_messages(tmp_path: Path, template: str, says: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidRequest, match=says) as refused:
        load_chat_template(tmp_path).render(Chat(MESSAGES))
    assert refused.value.field == "messages"
