"""What is kept of what a step chose: right guesses, and one token more."""

from example_counts import examples
from headrace_server.engine.acceptance import kept
from headrace_server.engine.sequence import Guess
from hypothesis import given, settings
from hypothesis import strategies as st

TOKENS = st.integers(0, 2)


@given(st.lists(TOKENS, min_size=1, max_size=6), st.data(), st.booleans(), st.lists(TOKENS, max_size=3))
@settings(examples(300))
def test_the_longest_right_beginning_and_the_choice_after_it(
    guessed: list[int], data: st.DataObject, by_a_model: bool, others: list[int]
) -> None:
    chosen = data.draw(st.lists(TOKENS, min_size=len(guessed) + 1, max_size=len(guessed) + 1))
    guess = Guess(len(guessed), () if by_a_model else tuple(guessed))
    drafted = iter([*guessed, *others] if by_a_model else others)
    found = [token for token, _ in kept(guess, [(token, None) for token in chosen], drafted)]
    assert found == chosen[: len(found)]
    assert found[:-1] == guessed[: len(found) - 1], "each but the last was guessed"
    assert len(found) == len(chosen) or chosen[len(found) - 1] != guessed[len(found) - 1], "no right guess is dropped"
    assert [*drafted] == others, "what was guessed for others is left for them"


def test_without_a_guess_all_that_was_chosen_is_kept() -> None:
    assert kept(None, [(5, "its logprobs")], iter(())) == [(5, "its logprobs")]


def test_while_the_draft_model_reads_nothing_was_guessed() -> None:
    assert kept(Guess(0, (), unread=99), [(5, None)], iter((7,))) == [(5, None)]
