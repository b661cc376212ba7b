"""Tools, as OpenAI's own client offers them: what the model is told, what comes back, what a forced call holds to."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio
from canned_engine import CannedServer, canned_server
from headrace_server.engine.limits import Limits
from headrace_server.request import Grammar
from headrace_server.rpc.ask import Chat
from headrace_server.rpc.chat_template import load_chat_template
from headrace_server.rpc.grammars import load_grammars
from headrace_server.rpc.structured import Format, Kind, any_json_object
from headrace_server.rpc.tool_calls import Form
from headrace_server.rpc.tools import Offer
from open_server import NAME
from served_process import ServedProcess, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
# In the manner of Qwen's: the tools first, then the messages, with calls and results in tags.
HERMES = """{% if tools %}Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}
{% endif %}{% for message in messages %}[{{ message.role }}] {{ message.content }}\
{% for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", \
"arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}
{% endfor %}[assistant] """
LLAMA = """{% if tools %}{{ tools | tojson }} Answer with {"name": function, "parameters": object}.
{% endif %}{% for message in messages %}[{{ message.role }}] {{ message.content }}
{% endfor %}[assistant] """
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"$ref": "#/$defs/Days"}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"Days": {"type": "integer", "minimum": 1, "maximum": 9}},
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
MESSAGES: Any = [{"role": "user", "content": "In"}]
CALLS = (
    'I look. <tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>{"name": "clock", "arguments": {}}</tool_call>void'
)


def a_model(directory: Path, template: str) -> Path:
    save_tiny_tokenizer(directory, chat=False)
    (directory / "chat_template.jinja").write_text(template)
    return directory


@asynccontextmanager
async def a_client(server: CannedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def ids(text: str) -> list[int]:
    return list(tiny_tokenizer().encode(text).ids)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_calls_come_back_as_openais_client_reads_them(tmp_path: Path, stream: bool) -> None:
    ask: Any = {"model": NAME, "messages": MESSAGES, "tools": [WEATHER, CLOCK], "max_tokens": 300, "stop": "void"}
    async with canned_server(a_model(tmp_path, HERMES), ids(CALLS)) as server, a_client(server) as client:
        if stream:
            async with client.chat.completions.stream(**ask) as events:
                completion = await events.get_final_completion()
        else:
            completion = await client.chat.completions.create(**ask)
    [choice] = completion.choices
    assert choice.message.content == "I look."
    calls = choice.message.tool_calls or []
    told = [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]
    assert told == [("weather", '{"city": "Rome"}'), ("clock", "{}")]
    assert choice.finish_reason == "tool_calls"
    assert all(call.id.startswith("call_") for call in calls)


async def test_an_answer_that_ends_by_itself_after_a_call_says_so(tmp_path: Path) -> None:
    answer = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>void'
    ask: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 300, "stop": "void"}
    async with canned_server(a_model(tmp_path, HERMES), ids(answer)) as server, a_client(server) as client:
        called = await client.chat.completions.create(**ask, tools=[CLOCK])
        parts = [part async for part in await client.chat.completions.create(**ask, tools=[CLOCK], stream=True)]
        none = await client.chat.completions.create(**ask, tools=[CLOCK], tool_choice="none")
        without = await client.chat.completions.create(**ask)
        prompts = [tiny_tokenizer().decode(list(request.prompt)) for request in server.engine.asked]
    assert called.choices[0].finish_reason == parts[-1].choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content is None
    for plain in (none, without):
        assert plain.choices[0].finish_reason == "stop"
        assert plain.choices[0].message.tool_calls is None
        assert plain.choices[0].message.content == answer.removesuffix("void")
    told = json.dumps(CLOCK)
    assert [told in prompt for prompt in prompts] == [True, True, False, False]


async def test_tags_that_the_tokenizer_calls_special_are_text_all_the_same(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    tokenizer.add_special_tokens(["<tool_call>", "</tool_call>"])
    a_model(tmp_path, HERMES)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    answer = tokenizer.encode(CALLS).ids
    assert len(answer) < len(ids(CALLS))
    async with canned_server(tmp_path, answer) as server, a_client(server) as client:
        ask: Any = {"model": NAME, "messages": MESSAGES, "tools": [WEATHER], "max_tokens": 300}
        found = await client.chat.completions.create(**ask)
    assert len(found.choices[0].message.tool_calls or []) == 2


async def test_the_model_sees_earlier_calls_and_their_results(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    answered: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "noon"}]},
    ]
    template = load_chat_template(a_model(tmp_path, HERMES))
    async with canned_server(tmp_path, ids("void")) as server, a_client(server) as client:
        await client.chat.completions.create(model=NAME, messages=answered, max_tokens=1)
        prompt = tiny_tokenizer().decode(list(server.engine.asked[-1].prompt), skip_special_tokens=False)
    told = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>'
    assert prompt.endswith(f"[assistant] {told}[tool] noon[assistant] ")
    assert template.tool_form is Form.HERMES


@pytest.mark.parametrize(
    ("template", "form"),
    [
        pytest.param(HERMES, Form.HERMES, id="Hermes"),
        pytest.param(LLAMA, Form.LLAMA, id="Llama"),
        pytest.param("{{ tools }} <tool_call><function=name></tool_call>", None, id="XML in Hermes' tags"),
        pytest.param("{{ messages }}", None, id="no tools"),
        pytest.param("{{ tools }} [TOOL_CALLS]", None, id="another form"),
    ],
)
def test_the_form_of_calls_is_the_templates(tmp_path: Path, template: str, form: Form | None) -> None:
    assert load_chat_template(a_model(tmp_path, template)).tool_form is form


def test_a_template_for_tools_is_used_when_there_are_some(tmp_path: Path) -> None:
    named = [
        {"name": "tool_use", "template": "<tool_call> {{ tools }} 'arguments': "},
        {"name": "default", "template": "plain"},
    ]
    save_tiny_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = load_chat_template(tmp_path)
    messages = ({"role": "user", "content": "x"},)
    assert template.render(Chat(messages)) == "plain"
    assert template.render(Chat(messages, Offer((CLOCK,)))).startswith("<tool_call>")
    assert template.tool_form is Form.HERMES


def test_what_the_caller_tells_the_template_reaches_it(tmp_path: Path) -> None:
    template = load_chat_template(a_model(tmp_path, "{{ enable_thinking }} {{ add_generation_prompt }}"))
    told = {"enable_thinking": False, "add_generation_prompt": False}
    assert template.render(Chat(({"role": "user", "content": "x"},), template_kwargs=told)) == "False True"


GOOD = {"city": "Oslo", "days": 3}
FORCED = [
    pytest.param((("weather", "clock"), False), [("weather", GOOD)], True, id="one of two"),
    pytest.param((("weather", "clock"), False), [("clock", {})], True, id="the other"),
    pytest.param((("weather", "clock"), False), [("clock", {}), ("weather", GOOD)], True, id="both"),
    pytest.param(
        (("weather", "clock"), True), [("clock", {}), ("weather", GOOD)], False, id="both, and only one may be"
    ),
    pytest.param((("clock",), True), [("weather", GOOD)], False, id="another than the named one"),
    pytest.param((("weather",), True), [("weather", GOOD | {"city": "Bonn"})], False, id="a value outside the schema"),
    pytest.param((("weather",), True), [("weather", GOOD | {"days": 10})], False, id="outside a referenced schema"),
    pytest.param((("weather",), True), [("weather", {"city": "Oslo"})], False, id="a required one left out"),
    pytest.param((("clock",), True), [("clock", {"zone": "UTC"})], False, id="arguments where there are none"),
]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(("offer", "calls", "fits"), FORCED)
async def test_a_forced_call_is_one_of_those_asked_for_and_keeps_to_its_schema(
    model: Path, form: Form, offer: tuple[tuple[str, ...], bool], calls: list[tuple[str, Any]], fits: bool
) -> None:
    tokenizer = tiny_tokenizer()
    must_call, one_call = offer
    wanted = Offer((WEATHER, CLOCK), must_call, one_call=one_call).format(form)
    assert wanted is not None
    grammars = load_grammars(model, Limits(1024, tokenizer.get_vocab_size(), (1,), 64))
    ended = ends_with(await grammars.grammar(wanted), ids(written(form, calls)))
    assert ended is (fits and not (form is Form.LLAMA and len(calls) > 1))  # Llama calls one at a time


ANSWER = Format(
    Kind.JSON_SCHEMA,
    json.dumps({"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "required": ["n"],
                "additionalProperties": False, "$defs": {"N": {"enum": [1, 2]}}}),
    "response_format",
)  # fmt: skip
EITHER = [
    pytest.param((), '{"n": 2}', True, id="an answer"),
    pytest.param((), '{"n":1}', True, id="an answer without spaces"),
    pytest.param((), '{"n": 3}', False, id="an answer outside its schema"),
    pytest.param((), "void", False, id="free text"),
    pytest.param((), [("weather", GOOD)], True, id="a call"),
    pytest.param((), [("weather", GOOD | {"days": 10})], False, id="a call outside its schema"),
    pytest.param(("weather",), '{"n": 2}', False, id="an answer where it must call"),
    pytest.param(("weather",), [("weather", GOOD)], True, id="a call where it must"),
]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(("must_call", "given", "fits"), EITHER)
async def test_with_a_format_it_is_a_call_or_an_answer_of_that_form(
    model: Path, form: Form, must_call: tuple[str, ...], given: Any, fits: bool
) -> None:
    tokenizer = tiny_tokenizer()
    wanted = Offer((WEATHER, CLOCK), must_call).format(form, ANSWER)
    assert wanted is not None
    grammar = await load_grammars(model, Limits(1024, tokenizer.get_vocab_size(), (1,), 64)).grammar(wanted)
    assert ends_with(grammar, ids(given if isinstance(given, str) else written(form, given))) is fits


async def test_a_free_object_may_stand_where_a_call_may(model: Path) -> None:
    """Whatever its first key is, in both forms; also the keys of a call."""
    wanted = [Offer((WEATHER, CLOCK)).format(form, any_json_object("response_format")) for form in Form]
    grammars = load_grammars(model, Limits(1024, tiny_tokenizer().get_vocab_size(), (1,), 64))
    for one in filter(None, wanted):
        for text in ('{"name": "Rome"}', '{"n": [1, {"a": null}]}', "{}", '{"name": "weather", "x": 1}'):
            assert ends_with(await grammars.grammar(one), ids(text)), (one.text.splitlines()[1], text)
        assert not ends_with(await grammars.grammar(one), ids("[1]"))


def ends_with(grammar: Grammar, token_ids: list[int]) -> bool:
    """Whether the grammar lets an answer of these tokens end."""
    row = np.zeros(10, dtype=np.int32)
    for token_id in token_ids:
        grammar.fill(row)
        if not row[token_id // 32] >> (token_id % 32) & 1:
            return False
        grammar.accept(token_id)
    if grammar.finished:
        return True
    grammar.fill(row)
    return bool(row[0] >> 1 & 1)


def written(form: Form, calls: list[tuple[str, Any]]) -> str:
    if form is Form.LLAMA:
        return "; ".join(json.dumps({"name": name, "parameters": arguments}) for name, arguments in calls)
    each = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in each)


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, with a template that it was not trained on: only the grammar can make it call."""
    directory = tmp_path_factory.mktemp("hermes") / "model"
    shutil.copytree(SHIPPED, directory)
    (directory / "chat_template.jinja").write_text(HERMES)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(hermes: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedProcess]:
    async with served(serve_command(hermes), tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_real_model_calls_what_it_must_with_arguments_that_fit(server: ServedProcess, choice: Any) -> None:
    ask: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 200, "temperature": 1, "seed": 3}
    tools: Any = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(**ask, **tools, n=2)
        async with client.chat.completions.stream(**ask, **tools) as events:
            streamed = await events.get_final_completion()
        unknown = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        odd: Any = [{"type": "function", "function": {"name": "f", "parameters": unknown}}]
        with pytest.raises(openai.BadRequestError, match="tools: cannot be enforced") as refused:
            await client.chat.completions.create(**ask, tools=odd, tool_choice="required")
    assert refused.value.param == "tools"
    for found in (*answer.choices, *streamed.choices):
        [call] = found.message.tool_calls or []
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather"
        assert not found.message.content
        assert arguments["city"] in {"Rome", "Oslo"}
        assert 1 <= arguments["days"] <= 9
        assert found.finish_reason == "tool_calls"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_model_calls_or_answers_in_the_form_that_was_asked_for(server: ServedProcess) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    format_: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    ask: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 200, "temperature": 1, "tools": [WEATHER]}
    ask["parallel_tool_calls"] = False
    async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) as client:
        either = await client.chat.completions.create(**ask, n=12, seed=1, response_format=format_)
        must = await client.chat.completions.create(**ask, response_format=format_, tool_choice="required")
        with pytest.raises(openai.BadRequestError, match="does not go with `tools`") as regex:
            await client.chat.completions.create(**ask, extra_body={"structured_outputs": {"regex": "a"}})
        odd: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}
        with pytest.raises(openai.BadRequestError, match="cannot be enforced") as unknown:
            await client.chat.completions.create(**ask, response_format=odd)
    assert (regex.value.param, unknown.value.param) == (
        "structured_outputs.regex",
        "response_format.json_schema.schema",
    )
    for choice in either.choices:
        if choice.message.tool_calls:
            assert choice.finish_reason == "tool_calls"
        else:
            assert json.loads(choice.message.content or "") in ({"n": 1}, {"n": 2})
    assert must.choices[0].message.tool_calls
