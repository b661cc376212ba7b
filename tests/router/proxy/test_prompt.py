"""The beginning of a prompt, from bytes that may be cut off, at odds with the format, or anything at all."""

import json

import pytest
from headrace_router.proxy import prompt
from headrace_server.rpc.pb import inference_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st


def framed(request: pb.GenerateRequest) -> bytes:
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


@given(st.text(min_size=1), st.integers(1, 9999), st.floats(0, 2))
def test_a_text_is_found_beside_any_other_field(text: str, most: int, temperature: float) -> None:
    body = framed(pb.GenerateRequest(text=text, max_new_tokens=most, temperature=temperature, stop=["x"]))
    assert prompt.of_grpc(body) == text.encode()[: prompt.LENGTH]


@given(st.lists(st.integers(0, 1 << 20), min_size=260, max_size=300), st.integers(0, 9))
def test_token_ids_with_one_beginning_are_alike(ids: list[int], last: int) -> None:
    one, other = (framed(pb.GenerateRequest(tokens=pb.TokenIds(ids=[*ids, each]))) for each in (last, last + 100))
    assert prompt.of_grpc(one) is not None
    assert prompt.of_grpc(one) == prompt.of_grpc(other)


def test_a_chat_is_found_behind_the_fields_before_it() -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="system", content="Be brief. " * 40)])
    body = framed(pb.GenerateRequest(chat=chat, max_new_tokens=5, stop=["x"] * 3, temperature=1.0, top_p=0.5))
    assert b"Be brief." in (prompt.of_grpc(body) or b"")


@pytest.mark.parametrize("field", ["prompt", "messages", "input"])
def test_json_begins_where_its_prompt_does(field: str) -> None:
    documents = [{"model": "m", field: "You are kind. " * 30 + str(n), "max_tokens": n} for n in range(2)]
    one, other = (prompt.of_json(json.dumps(document).encode()) for document in documents)
    assert one == other
    assert one is not None


@given(st.binary(max_size=400))
def test_no_body_is_too_strange(body: bytes) -> None:
    for found in (prompt.of_grpc(body), prompt.of_json(body)):
        assert found is None or len(found) <= prompt.LENGTH


@given(st.text(min_size=1), st.data())
def test_a_body_that_is_cut_off_gives_a_beginning_or_nothing(text: str, data: st.DataObject) -> None:
    whole = framed(pb.GenerateRequest(text=text))
    found = prompt.of_grpc(whole[: data.draw(st.integers(0, len(whole)))])
    assert found is None or text.encode().startswith(found)


def test_callers_share_nothing() -> None:
    assert prompt.affinity("a", b"same") == prompt.affinity("a", b"same") != prompt.affinity("b", b"same")
    assert prompt.affinity("a", None) is None
