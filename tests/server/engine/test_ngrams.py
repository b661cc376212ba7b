"""What follows is guessed from what followed the same words before."""

import random
import tracemalloc

import pytest
from example_counts import examples
from headrace_server.engine.ngrams import LONGEST, Ngrams
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = st.lists(st.integers(0, 3), max_size=60)


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        pytest.param((), (), id="no text"),
        pytest.param((1,), (), id="one token"),
        pytest.param((1, 2, 3, 4), (), id="nothing twice"),
        pytest.param((1, 2, 1), (), id="one token twice is no hint"),
        pytest.param((7, 8, 1, 2, 3, 4, 5, 7, 8), (1, 2, 3, 4), id="what came then"),
        pytest.param((7, 8, 1, 9, 7, 8, 2, 9, 7, 8), (2, 9, 7, 8), id="the latest of equal ends"),
        pytest.param((5, 7, 8, 1, 9, 6, 7, 8, 2, 9, 5, 7, 8), (1, 9, 6, 7), id="the longest end"),
        pytest.param((7, 8, 7, 8), (7, 8, 7, 8), id="in circles"),
        pytest.param((4, 4, 4), (4, 4, 4, 4), id="one token again and again"),
    ],
)
def test_guesses(text: tuple[int, ...], follows: tuple[int, ...]) -> None:
    assert Ngrams(text).next(4) == follows


@given(TEXTS, st.integers(1, 8))
@settings(examples(300))
def test_every_guess_followed_the_longest_end_among_the_latest_places(text: list[int], most: int) -> None:
    ngrams = Ngrams(text)
    found = ngrams.next(most)
    places = [at for at in range(1, len(text) - 1) if text[at - 1 : at + 1] == text[-2:]]
    if not places:
        assert found == ()
        return
    assert len(found) == most

    def common(place: int) -> int:
        equal = 0
        while equal <= place and equal < LONGEST and text[place - equal] == text[len(text) - 1 - equal]:
            equal += 1
        return equal

    latest = places[-8:]
    best = max(latest, key=lambda place: (common(place), place))
    endless = text[best + 1 :]
    assert found == tuple((endless * most)[:most])


@given(TEXTS, st.integers(0, 60))
@settings(examples(100))
def test_a_text_may_come_in_pieces(text: list[int], cut: int) -> None:
    ngrams = Ngrams(text[:cut])
    ngrams.read(text[cut:])
    assert len(ngrams) == len(text)
    assert ngrams.next(4) == Ngrams(text).next(4)


def test_a_prompt_that_waits_takes_few_bytes_a_token() -> None:
    dice = random.Random(0)
    prompt = tuple(dice.randrange(32_000) for _ in range(20_000))
    tracemalloc.start()
    try:
        ngrams = Ngrams(prompt)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ngrams) == len(prompt)
    assert held < 32 * len(prompt)
