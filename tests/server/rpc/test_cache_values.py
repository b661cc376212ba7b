"""What a cache keeps and for how long, and what tells two requests apart: values only."""

from dataclasses import fields, replace
from typing import Any

import pytest
from example_counts import examples
from headrace_server.embedding import EmbedAsk
from headrace_server.request import Priority, Sampling
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.rpc.caches.key import OF_THE_MOMENT, input_key, key_of
from headrace_server.rpc.caches.values import Values
from headrace_server.rpc.structured import Format, Kind
from hypothesis import given
from hypothesis import strategies as st

MOST, TTL = 100, 10.0


def test_what_nobody_asked_for_longest_makes_room() -> None:
    kept: Values[str] = Values(MOST, TTL)
    assert [kept.put(bytes([key]), str(key), 40, 0.0) for key in (1, 2)] == [0, 0]
    assert kept.get(b"\1", 1.0) == "1"
    assert kept.put(b"\3", "3", 40, 1.0) == 1
    assert [kept.get(bytes([key]), 1.0) for key in (1, 2, 3)] == ["1", None, "3"]
    assert kept.size == 80


def test_a_value_is_kept_for_its_time_from_when_it_was_put_in() -> None:
    kept: Values[str] = Values(MOST, TTL)
    kept.put(b"a", "a", 1, 0.0)
    assert kept.get(b"a", 9.99) == "a"
    assert kept.get(b"a", 10.0) is None
    assert (len(kept), kept.size) == (0, 0)


def test_what_is_larger_than_all_the_room_drives_nothing_out() -> None:
    kept: Values[str] = Values(MOST, TTL)
    kept.put(b"a", "a", MOST, 0.0)
    assert kept.put(b"b", "b", MOST + 1, 0.0) == 0
    assert (kept.get(b"a", 0.0), kept.get(b"b", 0.0)) == ("a", None)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120), st.floats(0, 3), st.booleans()), max_size=60))
@examples(100)
def test_the_bound_holds_and_what_is_found_is_what_was_put_in_last(
    steps: list[tuple[int, int, float, bool]],
) -> None:
    kept: Values[tuple[int, int]] = Values(MOST, TTL)
    latest: dict[bytes, tuple[tuple[int, int], float]] = {}
    now = 0.0
    for number, (name, size, passed, is_put) in enumerate(steps):
        now, key = now + passed, bytes([name])
        if is_put:
            kept.put(key, (name, number), size, now)
            latest[key] = ((name, number), now)
        elif (found := kept.get(key, now)) is not None:
            value, at = latest[key]
            assert found == value
            assert now < at + TTL
        assert 0 <= kept.size <= MOST


ASK = Ask(prompt="In", max_new_tokens=4, default_new_tokens=16, sampling=Sampling(), tenant="a")
OTHERS: dict[str, Any] = {
    "prompt": "in",
    "max_new_tokens": 5,
    "default_new_tokens": 17,
    "sampling": Sampling(seed=1),
    "stop": ("x",),
    "stop_token_ids": (3,),
    "ignore_eos": True,
    "echo": True,
    "prompt_logprobs": 0,
    "format": Format(Kind.REGEX, "a+", "regex"),
    "adapter": "polite",
    "tenant": "b",
    "cache_scope": "bob",
}


def test_every_field_of_a_request_counts_that_is_not_of_the_moment() -> None:
    assert {field.name for field in fields(Ask)} == OTHERS.keys() | OF_THE_MOMENT
    keys = {name: key_of(replace(ASK, **{name: value})) for name, value in OTHERS.items()}
    assert len({*keys.values(), key_of(ASK)}) == len(OTHERS) + 1
    assert key_of(replace(ASK, timeout=1.0, priority=Priority.BATCH)) == key_of(ASK)


@pytest.mark.parametrize("field", [field.name for field in fields(Sampling)])
def test_every_sampling_field_counts(field: str) -> None:
    other: Any = ((5, 1.0),) if field == "logit_bias" else 1
    usual = getattr(Sampling(), field)
    changed = Sampling(**{field: other if usual != other else 0.5})
    assert key_of(replace(ASK, sampling=changed)) != key_of(ASK)


def chat(*messages: dict[str, Any]) -> bytes:
    return key_of(replace(ASK, prompt=Chat(messages)))


def test_chats_are_told_apart_by_all_that_they_say() -> None:
    user = {"role": "user", "content": "a"}
    assert chat(user) == chat({"content": "a", "role": "user"})
    different = [
        chat(user), chat(user, user), chat({**user, "content": "b"}), chat({**user, "name": "x"}),
        chat({**user, "content": None}), chat({**user, "content": ["a"]}), chat({**user, "content": [{"text": "a"}]}),
        key_of(replace(ASK, prompt="a")), key_of(replace(ASK, prompt=(97,))),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


TEXTS = st.text(max_size=4)


@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4), TEXTS, TEXTS)
def test_two_requests_are_equal_only_if_all_their_parts_are(
    one: list[str], other: list[str], ours: str, theirs: str
) -> None:
    def key(stops: list[str], tenant: str) -> bytes:
        padded = tuple(stop or "-" for stop in stops)
        return key_of(replace(ASK, stop=padded, tenant=tenant))

    are_equal = [stop or "-" for stop in one] == [stop or "-" for stop in other] and ours == theirs
    assert (key(one, ours) == key(other, theirs)) == are_equal


def test_a_text_is_the_same_whatever_stands_beside_it_and_not_the_same_for_another_tenant() -> None:
    alone, among = EmbedAsk(("a",), tenant="t"), EmbedAsk(("b", "a"), tenant="t", timeout=1.0)
    assert input_key(alone, "a") == input_key(among, "a") != input_key(among, "b")
    changes: list[dict[str, Any]] = [
        {"tenant": "u"}, {"cache_scope": "x"}, {"dimensions": 4}, {"normalise": True}, {"truncate": True},
    ]  # fmt: skip
    assert len({input_key(alone, "a"), *(input_key(replace(alone, **each), "a") for each in changes)}) == 6
    assert input_key(alone, (1, 2)) != input_key(alone, "12")


def test_what_cannot_be_compared_is_refused_and_not_guessed() -> None:
    with pytest.raises(TypeError, match="object"):
        chat({"role": object()})
