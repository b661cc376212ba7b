"""A checkpoint's chat template: messages to the one text that the model was trained on.

The template comes with the weights and is a program; it runs in jinja2's immutable sandbox, with the few additions
that Hugging Face templates rely on.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace_server.errors import InvalidRequest, ModelRefused
from headrace_server.rpc.ask import Chat
from headrace_server.rpc.tool_calls import BEGIN, Form

PLAIN, WITH_TOOLS = "default", "tool_use"  # names that Hugging Face gives to several templates
NONE = "this model has no chat template; send the text to /v1/completions"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: jinja2.Template | None  # None: this model does not chat
    special_tokens: Mapping[str, str]  # bos_token, eos_token, ...: templates write them out
    with_tools: jinja2.Template | None = None  # another one for chats that offer tools; None: the same
    tool_form: Form | None = None  # in which the model calls tools; None: in none that is known
    source: str | None = None  # of `template`

    def render(self, chat: Chat) -> str:
        """Ends where the assistant's answer begins. Raises InvalidRequest, also when the template itself refuses."""
        if self.template is None:
            raise InvalidRequest("messages", NONE)
        tools = None if chat.offer is None else list(chat.offer.tools)
        template = self.template if tools is None else self.with_tools or self.template
        given = {**self.special_tokens, **(chat.template_kwargs or {})}
        try:
            return template.render(given, messages=list(chat.messages), tools=tools, add_generation_prompt=True)
        except jinja2.TemplateError as refused:
            raise InvalidRequest("messages", f"the model's chat template refuses them: {refused}") from refused
        except Exception as broken:  # of any kind: the template is a program that came with the weights
            cause = f"{type(broken).__name__}: {broken}"
            raise InvalidRequest("messages", f"the model's chat template breaks on them: {cause}") from broken


def load_chat_template(model: Path) -> ChatTemplate:
    """From chat_template.jinja or tokenizer_config.json. Raises ModelRefused when either cannot be read."""
    config = _tokenizer_config(model)
    sources = _sources(model, config)
    environment = _environment()
    try:
        templates = {name: environment.from_string(source) for name, source in sources.items()}
    except jinja2.TemplateError as broken:
        raise ModelRefused(f"{model}: the chat template does not parse: {broken}") from broken
    plain, with_tools = templates.get(PLAIN), templates.get(WITH_TOOLS)
    form = _tool_form(sources.get(WITH_TOOLS) or sources.get(PLAIN) or "")
    return ChatTemplate(plain, _special_tokens(config), with_tools, form, sources.get(PLAIN))


def _tool_form(source: str) -> Form | None:
    """By the examples that templates give to the model."""
    if not re.search(r"\btools\b", source):
        return None
    keys = set(re.findall(r"""\\?["'](arguments|parameters)\\?["']\s*:""", source))
    if BEGIN in source:
        return Form.HERMES if "arguments" in keys else None  # others write XML between the same tags
    return Form.LLAMA if "parameters" in keys else None


def _tokenizer_config(model: Path) -> dict[str, Any]:
    path = model / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except ValueError as broken:
        raise ModelRefused(f"{path}: is not JSON: {broken}") from broken
    if not isinstance(config, dict):
        raise ModelRefused(f"{path}: must hold a JSON object")
    return config


def _sources(model: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name: PLAIN and perhaps WITH_TOOLS; none for a model that does not chat."""
    beside = model / "chat_template.jinja"
    if beside.is_file():
        return {PLAIN: beside.read_text()}
    found = config.get("chat_template")
    if isinstance(found, list):
        given = [(each.get("name"), each.get("template")) for each in found if isinstance(each, dict)]
        sources = {name: text for name, text in given if name in (PLAIN, WITH_TOOLS) and text is not None}
    else:
        sources = {} if found is None else {PLAIN: found}
    texts = {name: source for name, source in sources.items() if isinstance(source, str)}
    if len(texts) != len(sources):
        raise ModelRefused(f"{model / 'tokenizer_config.json'}: chat_template must be text")
    return texts


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Written either as a string or as {"content": ...}."""
    names = [name for name in config if name.endswith("_token")]
    values = {name: config[name].get("content") if isinstance(config[name], dict) else config[name] for name in names}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json  # jinja2's own escapes for HTML
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _today
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _today(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005, TID251 - templates tell the model the local date
