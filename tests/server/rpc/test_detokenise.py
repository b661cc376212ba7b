"""Ids to text piece by piece, against the same ids decoded at once."""

from typing import Any

import pytest
from headrace_server.rpc.detokenise import Detokeniser, StopStrings
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

CHARACTERS = st.text(st.sampled_from("aé你😀 .\n\u200d👩"), max_size=40)
IDS = st.lists(st.integers(0, tiny_tokenizer().get_vocab_size() - 1), max_size=60)


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokeniser = Detokeniser(tokenizer, prompt or [])
    return [*map(detokeniser.feed, ids), detokeniser.flush()]


@given(text=CHARACTERS, prompt=CHARACTERS)
def test_text_comes_back_whole_and_no_piece_breaks_a_character(text: str, prompt: str) -> None:
    tokenizer = tiny_tokenizer()
    found = pieces(tokenizer, tokenizer.encode(text).ids, tokenizer.encode(prompt).ids)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


@given(ids=IDS, prompt=IDS)
def test_ids_that_are_no_text_do_no_harm(ids: list[int], prompt: list[int]) -> None:
    found = "".join(pieces(tiny_tokenizer(), ids, prompt))
    assert found.replace("\ufffd", "") == tiny_tokenizer().decode(ids).replace("\ufffd", "")


def test_an_answer_that_ends_inside_a_character_shows_it() -> None:
    ids = tiny_tokenizer().encode("a😀").ids[:-1]
    *others, last = pieces(tiny_tokenizer(), ids)
    assert ("".join(others), last) == ("a", "\ufffd")


def sentencepiece() -> Tokenizer:
    """Words that carry their leading space, and bytes for what no word covers: the way of the Llama 2 family."""
    words = ["<s>", "▁God", "▁created", "s", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [], byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        pytest.param([1], " created", id="after a word the space is part of the answer"),
        pytest.param([], "created", id="at the very beginning it is not"),
    ],
)
def test_the_prompt_decides_whether_the_first_word_has_its_space(prompt: list[int], text: str) -> None:
    assert "".join(pieces(sentencepiece(), [2], prompt)) == text


@given(ids=st.lists(st.sampled_from([1, 2, 3, *(4 + byte for byte in b"a\xff\xe4\xbd\xa0")]), max_size=30))
def test_broken_bytes_between_words_do_no_harm(ids: list[int]) -> None:
    found = "".join(pieces(sentencepiece(), ids))
    for word in ("God", "created"):
        assert found.count(word) == sentencepiece().decode(ids).count(word)


@pytest.mark.parametrize("token", ["ÿ", "<s>"], ids=["a byte that begins no character", "a special token"])
def test_a_run_of_ids_without_text_does_not_make_the_next_one_slower(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_id = tiny_tokenizer().token_to_id(token)
    monkeypatch.setattr("headrace_server.rpc.detokenise.DecodeStream", Counting)
    detokeniser = Detokeniser(tiny_tokenizer(), [])
    Counting.most = 0
    for _ in range(100):
        detokeniser.feed(token_id)
    early = Counting.most
    for _ in range(1000):
        detokeniser.feed(token_id)
    assert 1 <= early == Counting.most


class Counting:
    """The library's stream, which decodes at each id all those that have given no text yet."""

    most = 0  # ids decoded at once, by any of them

    def __init__(self, **options: Any) -> None:
        self._stream = DecodeStream(**options)
        self._without_text = 0

    def step(self, tokenizer: Tokenizer, token_id: int) -> str | None:
        self._without_text += 1
        Counting.most = max(Counting.most, self._without_text)
        text: str | None = self._stream.step(tokenizer, token_id)
        if text is not None:
            self._without_text = 0
        return text


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_is_cut_at_the_first_stop_string_to_be_complete(chunks: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for chunk in chunks:
        shown += matcher.feed(chunk)
        if matcher.found:
            break
    else:
        shown += matcher.flush()

    seen = ["".join(chunks[: count + 1]) for count in range(len(chunks))]
    complete = next((text for text in seen if any(stop in text for stop in stops)), None)
    expected = "".join(chunks)
    if complete is not None:
        expected = complete[: min(complete.find(stop) for stop in stops if stop in complete)]
    assert (shown, matcher.found) == (expected, complete is not None)


@given(st.lists(st.text("abc", max_size=4)))
def test_only_what_could_become_a_stop_string_is_held_back(chunks: list[str]) -> None:
    matcher = StopStrings(["abcabx"])
    shown = "".join(map(matcher.feed, chunks))
    held = "".join(chunks).removeprefix(shown)
    assert "abcabx".startswith(held)
    assert len(held) < len("abcabx")
