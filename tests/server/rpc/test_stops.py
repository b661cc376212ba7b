"""The step that completes a stop string is the one in which the text shows it."""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from headrace_server.engine.stops import StopMatcher
from headrace_server.rpc.chat_template import ChatTemplate
from headrace_server.rpc.detokenise import StopStrings
from headrace_server.rpc.text import Text, load_text
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
PIECES = ("And", " God", " said", "naïve", " 你好", "😀", "\n", "é", " ", "And the", "earth")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@cache
def shipped() -> Text:
    return load_text(SHIPPED)


@cache
def sentencepiece() -> Text:
    """Words that carry their leading space, and bytes for what no word covers: the way of the Llama 2 family."""
    words = ["<s>", "▁God", "▁a", "▁", "s", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [], byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<s>"])
    return Text(tokenizer, ChatTemplate(None, {}))


def completed_at(text: Text, prompt: Sequence[int], answer: Sequence[int], stops: Sequence[str]) -> int | None:
    """The place of the token that completes a stop string in the text, as the doors search it."""
    detokeniser, found = text.detokeniser(prompt), StopStrings(stops)
    for place, token in enumerate(answer):
        found.feed(detokeniser.feed(token))
        if found.found:
            return place
    return None


def seen_at(matcher: StopMatcher, answer: Sequence[int]) -> int | None:
    return next((place for place, token in enumerate(answer) if matcher.feed(token)), None)


def split_at_random(text: str, seed: int) -> Iterator[int]:
    """Tokens that a model could choose for this text, not those that the tokenizer would."""
    choose = random.Random(seed)
    while text:
        length = choose.randint(1, min(6, len(text)))
        yield from shipped().encode(text[:length])
        text = text[length:]


@given(TEXTS, TEXTS, st.integers(), st.lists(st.sampled_from([*PIECES, "d s", "好😀", "\n\n", "An"]), max_size=3))
def test_the_matcher_agrees_with_the_search_of_the_text(prompt: str, answer: str, seed: int, stops: list[str]) -> None:
    prompt_ids, ids = shipped().encode(prompt), list(split_at_random(answer, seed))
    matcher = shipped().stop_matcher(stops, prompt_ids, not_before=0)
    assert seen_at(matcher, ids) == completed_at(shipped(), prompt_ids, ids, stops)


@given(
    prompt=st.lists(st.integers(0, 4), max_size=3),
    answer=st.lists(st.sampled_from([[0], [1], [2], [3], [4], [5 + byte for byte in "é".encode()]]), max_size=8),
    stops=st.lists(st.sampled_from([" God", "God", " a", "é s", "s", "  "]), min_size=1, max_size=2),
)
def test_the_first_word_has_its_space_only_where_the_text_has_it(
    prompt: list[int], answer: list[list[int]], stops: list[str]
) -> None:
    ids = [token for tokens in answer for token in tokens]
    matcher = sentencepiece().stop_matcher(stops, prompt, not_before=0)
    assert seen_at(matcher, ids) == completed_at(sentencepiece(), prompt, ids, stops)


@given(TEXTS)
def test_the_bytes_of_tokens_are_the_bytes_of_their_text(text: str) -> None:
    ids = shipped().encode(text)
    assert b"".join(map(shipped().token_bytes.text, ids)) == text.encode()


def test_special_tokens_and_ids_without_a_token_add_nothing_to_a_text() -> None:
    found = shipped().token_bytes
    assert (found.text(0), found.name(0)) == (b"", b"<|end|>")
    assert (found.text(10**6), found.name(10**6)) == (b"", b"")


@pytest.mark.parametrize(
    ("not_before", "expected"),
    [
        pytest.param(0, 1, id="the first one counts"),
        pytest.param(1, 1, id="as long as its last token counts alone"),
        pytest.param(2, 3, id="one among tokens that are not searched does not"),
        pytest.param(9, None, id="nothing is searched"),
    ],
)
def test_tokens_that_have_to_come_are_not_searched(not_before: int, expected: int | None) -> None:
    letters = {0: b"a", 1: b"b"}
    assert seen_at(StopMatcher(["b"], letters.__getitem__, not_before), [0, 1, 0, 1, 0]) == expected


def test_a_token_costs_the_same_late_in_the_answer() -> None:
    before: list[int] = []  # bytes of the answer that each token is searched with

    class Noting(bytes):
        def __radd__(self, end: bytes) -> bytes:
            before.append(len(end))
            return end + bytes(self)

    matcher = StopMatcher(["never" * 20], lambda _: Noting(b"neve"), 0)
    assert not any(matcher.feed(token) for token in range(10_000))
    assert len(before) == 10_000
    assert max(before) < len("never" * 20)
