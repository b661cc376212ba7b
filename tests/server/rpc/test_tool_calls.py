"""Calls of tools are found in what a model writes, however it comes in pieces."""

import json

import pytest
from headrace_server.rpc.tool_calls import CallReader, Form, whole_calls
from hypothesis import given, settings
from hypothesis import strategies as st

ROME = '{"name": "weather", "arguments": {"city": "Rome", "days": [1, {"x": "}"}]}}'
NOON = '{"name": "clock", "arguments": {}}'
ROME_CALL = ("weather", {"city": "Rome", "days": [1, {"x": "}"}]})
LLAMA_ROME = ROME.replace("arguments", "parameters")
LLAMA_NOON = NOON.replace("arguments", "parameters")
QUOTED = r'{"name": "say", "arguments": {"text": "a \"}</tool_call>\" b\\"}}'

CASES = [
    pytest.param(Form.HERMES, "Just text < tool.", "Just text < tool.", [], id="text alone"),
    pytest.param(Form.HERMES, f"<tool_call>\n{ROME}\n</tool_call>", "", [ROME_CALL], id="one call"),
    pytest.param(
        Form.HERMES,
        f"I look.\n\n<tool_call>\n{ROME}\n</tool_call>\n<tool_call>\n{NOON}\n</tool_call>\n",
        "I look.",
        [ROME_CALL, ("clock", {})],
        id="text and two calls",
    ),
    pytest.param(Form.HERMES, f"<tool_call>{NOON}</tool_call> Done.", "Done.", [("clock", {})], id="text after a call"),
    pytest.param(
        Form.HERMES,
        f"<tool_call>{NOON}</tool_call>\nIt is noon. \n<tool_call>{NOON}</tool_call>  It still is.\n",
        "It is noon.It still is.",
        [("clock", {}), ("clock", {})],
        id="several words after a call",
    ),
    pytest.param(
        Form.HERMES,
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
        "",
        [("f", {"a": 1})],
        id="the name after the arguments",
    ),
    pytest.param(
        Form.HERMES,
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [("f", {"a": 1})],
        id="arguments as text",
    ),
    pytest.param(Form.HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", {})], id="no arguments"),
    pytest.param(Form.HERMES, f"<tool_call>{NOON}", "", [("clock", {})], id="the end tag is missing"),
    pytest.param(Form.HERMES, "<tool_call>no JSON</tool_call>", "<tool_call>no JSON", [], id="what is no call is text"),
    pytest.param(Form.HERMES, "<tool_call>[1]", "<tool_call>[1]", [], id="an array is no call"),
    pytest.param(
        Form.HERMES,
        f"<tool_call>{QUOTED}</tool_call>",
        "",
        [("say", {"text": 'a "}</tool_call>" b\\'})],
        id="quotes, braces and the end tag in the arguments",
    ),
    pytest.param(Form.LLAMA, LLAMA_ROME, "", [ROME_CALL], id="Llama's call"),
    pytest.param(Form.LLAMA, f"<|python_tag|>{LLAMA_NOON}", "", [("clock", {})], id="Llama's tag shown"),
    pytest.param(
        Form.LLAMA, f"\n{LLAMA_ROME}; {LLAMA_NOON}", "", [ROME_CALL, ("clock", {})], id="two of Llama's calls"
    ),
    pytest.param(
        Form.LLAMA,
        '{"type": "function", "name": "f", "parameters": {"a": 1}}',
        "",
        [("f", {"a": 1})],
        id="Llama's call with a type",
    ),
    pytest.param(Form.LLAMA, 'Say {"name": "f"}', 'Say {"name": "f"}', [], id="text that holds JSON"),
    pytest.param(Form.LLAMA, '{"answer": 42}', '{"answer": 42}', [], id="JSON that is no call"),
    pytest.param(Form.LLAMA, '{"name": "f", "para', '{"name": "f", "para', [], id="JSON that was cut off"),
]


def read(form: Form, pieces: list[str], *, one_call: bool = False) -> tuple[str, list[tuple[str, str]]]:
    reader = CallReader(form, one_call=one_call)
    found = [reader.read(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces)]
    calls = whole_calls([part for _, parts in found for part in parts])
    assert len({call["id"] for call in calls}) == len(calls)
    told = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return "".join(text for text, _ in found), told


@pytest.mark.parametrize(("form", "text", "shown", "calls"), CASES)
def test_text_and_calls_are_told_apart_whole_and_character_by_character(
    form: Form, text: str, shown: str, calls: list[tuple[str, object]]
) -> None:
    for pieces in ([text], list(text), [*text, ""]):
        found, told = read(form, pieces)
        assert found == shown
        assert [(name, json.loads(arguments)) for name, arguments in told] == calls


@given(form=st.sampled_from(Form), data=st.data())
@settings(max_examples=200, deadline=None)
def test_how_a_text_comes_in_pieces_changes_nothing(form: Form, data: st.DataObject) -> None:
    fragments = [
        "<tool_call>",
        "</tool_call>",
        ROME,
        NOON,
        LLAMA_ROME,
        QUOTED,
        "{",
        "}",
        '"',
        "\\",
        "\n",
        " ",
        ";",
        "<t",
        "ü",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(fragments), min_size=1, max_size=8)))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(form, pieces) == read(form, [text])


def test_arguments_are_passed_on_before_the_call_is_complete() -> None:
    reader = CallReader(Form.HERMES)
    _, begun = reader.read('<tool_call>{"name": "f", "arguments": {"a', last=False)
    _, more = reader.read('": 1', last=False)
    assert [part.delta() for part in more] == [{"index": 0, "function": {"arguments": '": 1'}}]
    first, second = (part.delta() for part in begun)
    assert first["function"] == {"name": "f", "arguments": ""}
    assert (first["index"], first["type"]) == (0, "function")
    assert second == {"index": 0, "function": {"arguments": '{"a'}}


@pytest.mark.parametrize("form", Form)
def test_a_second_call_is_left_out_when_there_may_be_only_one(form: Form) -> None:
    calls = [ROME, NOON] if form is Form.HERMES else [LLAMA_ROME, LLAMA_NOON]
    text = "".join(f"<tool_call>{call}</tool_call>" for call in calls) if form is Form.HERMES else "; ".join(calls)
    assert len(read(form, [text])[1]) == 2
    assert [name for name, _ in read(form, [text], one_call=True)[1]] == ["weather"]
