"""A checkpoint's chat template: messages to the one text that the model was trained on.

The template comes with the weights and is a program; it runs in jinja2's immutable sandbox, with the few additions
that Hugging Face templates rely on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace_server.errors import InvalidRequest, ModelRefused

NONE = "this model has no chat template; send the text to /v1/completions"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: jinja2.Template | None  # None: this model does not chat
    special_tokens: Mapping[str, str]  # bos_token, eos_token, ...: templates write them out

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Ends where the assistant's answer begins. Raises InvalidRequest, also when the template itself refuses."""
        if self.template is None:
            raise InvalidRequest("messages", NONE)
        try:
            return self.template.render(messages=messages, add_generation_prompt=True, **self.special_tokens)
        except jinja2.TemplateError as refused:
            raise InvalidRequest("messages", f"the model's chat template refuses them: {refused}") from refused


def load_chat_template(model: Path) -> ChatTemplate:
    """From chat_template.jinja or tokenizer_config.json. Raises ModelRefused when either cannot be read."""
    config = _tokenizer_config(model)
    source = _source(model, config)
    try:
        template = None if source is None else _environment().from_string(source)
    except jinja2.TemplateError as broken:
        raise ModelRefused(f"{model}: the chat template does not parse: {broken}") from broken
    return ChatTemplate(template, _special_tokens(config))


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


def _source(model: Path, config: Mapping[str, Any]) -> str | None:
    beside = model / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text()
    found = config.get("chat_template")
    if isinstance(found, list):  # several named templates: the one that plain chat uses
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if not isinstance(found, str | None):
        raise ModelRefused(f"{model / 'tokenizer_config.json'}: chat_template must be text")
    return found


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


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _today(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005, TID251 - templates tell the model the local date
