"""What a line of an offline job may be: by table, and for every mixture of good and broken lines."""

import json
from typing import Any

import pytest
from headrace_server.rpc.batches.lines import Code, Fault, Line, read_lines
from hypothesis import given
from hypothesis import strategies as st

BODY = {"model": "tiny", "prompt": "In", "max_tokens": 2}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": BODY}


def raw(*lines: Any) -> list[bytes]:
    return [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]


@pytest.mark.parametrize(
    ("line", "code", "field", "says"),
    [
        pytest.param(b"{\n", Code.INVALID_LINE, None, "is not JSON", id="no JSON"),
        pytest.param(b"[]\n", Code.INVALID_LINE, None, "must be a JSON object", id="no object"),
        pytest.param(b"\xff\n", Code.INVALID_LINE, None, "is not JSON", id="no UTF-8"),
        pytest.param(LINE | {"custom_id": ""}, Code.INVALID_REQUEST, "custom_id", "at least 1", id="empty id"),
        pytest.param(LINE | {"custom_id": 7}, Code.INVALID_REQUEST, "custom_id", "valid string", id="id as a number"),
        pytest.param(LINE | {"method": "GET"}, Code.INVALID_REQUEST, "method", "'POST'", id="another method"),
        pytest.param(LINE | {"url": "/v1/responses"}, Code.WRONG_ENDPOINT, "url", "must be /v1/", id="another url"),
        pytest.param(LINE | {"bdoy": {}}, Code.INVALID_REQUEST, "bdoy", "not a known field", id="misspelt field"),
        pytest.param(LINE | {"body": "text"}, Code.INVALID_REQUEST, "body", "valid dictionary", id="body of text"),
        pytest.param(LINE | {"body": {}}, Code.INVALID_REQUEST, "body.model", "required", id="no model"),
        pytest.param(
            LINE | {"body": BODY | {"temperature": 9}}, Code.INVALID_REQUEST, "body.temperature", "to 2", id="too hot"
        ),
        pytest.param(
            LINE | {"body": BODY | {"max_token": 9}}, Code.INVALID_REQUEST, "body.max_token", "spelling", id="misspelt"
        ),
        pytest.param(
            LINE | {"body": BODY | {"stream": True}}, Code.INVALID_REQUEST, "body.stream", "leave it out", id="stream"
        ),
        pytest.param(
            LINE | {"body": BODY | {"priority": "interactive"}},
            Code.INVALID_REQUEST,
            "body.priority",
            "always `batch`",
            id="in a hurry",
        ),
        pytest.param(
            LINE | {"url": "/v1/chat/completions", "body": {"model": "tiny", "messages": []}},
            Code.INVALID_REQUEST,
            "body.messages",
            "at least 1",
            id="an empty chat",
        ),
    ],
)
def test_a_fault_names_its_line_and_field(line: Any, code: Code, field: str | None, says: str) -> None:
    [first, fault] = read_lines(raw(LINE | {"custom_id": "first"}, line))
    assert isinstance(first, Line)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.line, fault.field) == (code, 2, field)
    assert says in fault.message
    assert str(fault).startswith("line 2: ")


def test_a_second_line_with_the_same_id_names_the_first() -> None:
    [_, _, fault] = read_lines(raw(LINE, LINE | {"custom_id": "b"}, LINE))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.line) == (Code.DUPLICATE_ID, 3)
    assert "that of line 1 too" in fault.message


def test_the_first_line_counts_even_when_it_has_a_fault_of_its_own() -> None:
    broken = LINE | {"body": BODY | {"top_p": 3}}
    codes = [fault.code for fault in read_lines(raw(broken, LINE)) if isinstance(fault, Fault)]
    assert codes == [Code.INVALID_REQUEST, Code.DUPLICATE_ID]


def test_a_line_beyond_what_a_request_may_have_is_refused_with_its_size() -> None:
    [fault] = read_lines(raw(LINE | {"body": BODY | {"prompt": "x" * 2**22}}))
    assert isinstance(fault, Fault)
    assert "at most 4194304 are allowed" in fault.message


def test_a_batch_takes_lines_of_its_endpoint_only() -> None:
    [fault] = read_lines(raw(LINE), endpoint="/v1/chat/completions")
    assert isinstance(fault, Fault)
    assert fault.message == "url: is '/v1/completions'; must be /v1/chat/completions"


@given(st.lists(st.sampled_from(["good", "empty", "broken", "duplicate"]), max_size=20))
def test_every_line_but_the_empty_ones_is_a_request_or_a_fault_with_its_number(kinds: list[str]) -> None:
    lines = raw(
        *(
            {
                "good": LINE | {"custom_id": str(number)},
                "empty": b" \n",
                "broken": b"{\n",
                "duplicate": LINE | {"custom_id": "same"},
            }[kind]
            for number, kind in enumerate(kinds, start=1)
        )
    )
    first_same = kinds.index("duplicate") + 1 if "duplicate" in kinds else 0
    expected = [
        (number, kind == "good" or number == first_same) for number, kind in enumerate(kinds, 1) if kind != "empty"
    ]
    found = [(one.number, True) if isinstance(one, Line) else (one.line, False) for one in read_lines(lines)]
    assert found == expected


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}),
        ("/v1/score", {"text_1": "a", "text_2": ["b"]}),
    ],
)
def test_texts_may_be_embedded_and_ranked_offline(url: str, body: dict[str, Any]) -> None:
    fine = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "tiny"} | body}
    hasty = fine | {"custom_id": "b", "body": fine["body"] | {"priority": "interactive"}}
    wrong = fine | {"custom_id": "c", "body": {"model": "tiny"}}
    [line, urgent, empty] = read_lines(raw(fine, hasty, wrong))
    assert isinstance(line, Line)
    assert isinstance(urgent, Fault)
    assert isinstance(empty, Fault)
    assert (urgent.field, empty.code) == ("body.priority", Code.INVALID_REQUEST)
