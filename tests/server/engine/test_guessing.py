"""Whether guessing pays is what the steps say, whatever they said before."""

from collections import Counter
from dataclasses import dataclass

import pytest
from headrace_server.engine.guessing import LONGEST, SETTLED, TRIAL, Measured, UpTo

MOST = 4  # tokens guessed for a sequence


@dataclass(frozen=True, slots=True)
class Machine:
    """A step takes `fixed` and `row` for each row of it, and `guess` for each token that a draft model guesses in turn;
    each guess is right with the same chance, if the ones before it are."""

    fixed: float = 0.010
    row: float = 0.0005
    guess: float = 0.0
    right: float = 0.7

    def seconds(self, decoding: int, guessing: int) -> float:
        return self.fixed + self.row * decoding * (1 + guessing) + self.guess * guessing

    def brought(self, guessing: int) -> float:
        """Tokens of each in one step."""
        return sum(self.right**number for number in range(guessing + 1))

    def rate(self, decoding: int, guessing: int) -> float:
        return decoding * self.brought(guessing) / self.seconds(decoding, guessing)

    def best(self, decoding: int) -> int:
        return max((0, 2, MOST), key=lambda guessing: self.rate(decoding, guessing))


def serve(law: Measured, machine: Machine, decoding: int, steps: int) -> Counter[int]:
    """How many steps held so many guesses of each."""
    held: Counter[int] = Counter()
    brought = dict.fromkeys(range(MOST + 1), 0.0)
    for _ in range(steps):
        guessing = law.tokens(decoding)
        held[guessing] += 1
        before = int(brought[guessing])
        brought[guessing] += decoding * machine.brought(guessing)
        law.observe(decoding, guessing, machine.seconds(decoding, guessing), int(brought[guessing]) - before)
    return held


@pytest.mark.parametrize("decoding", [1, 2, 3, 7, 16, 33, 64, 128])
@pytest.mark.parametrize("right", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("guess", [0.0, 0.004])
def test_the_fastest_number_is_kept_at_each_size(decoding: int, right: float, guess: float) -> None:
    machine = Machine(right=right, guess=guess)
    held = serve(Measured(MOST), machine, decoding, 20 * SETTLED)
    best = machine.rate(decoding, machine.best(decoding))
    good = sum(held[number] for number in (0, 2, MOST) if machine.rate(decoding, number) > 0.95 * best)
    assert good > 0.9 * 20 * SETTLED


def test_each_answer_is_the_best_somewhere() -> None:
    """Or the test before this one would hold for a constant."""
    found = {Machine(right=right, guess=0.004).best(decoding) for right in (0.0, 0.6, 0.9) for decoding in (1, 64)}
    assert found == {0, 2, MOST}


def test_other_sizes_have_their_own_answer() -> None:
    law, machine, sizes = Measured(MOST), Machine(row=0.004), (1, 2, 4, 8, 16, 32)
    for decoding in sizes:
        serve(law, machine, decoding, 4 * TRIAL)
    assert machine.best(1) > 0 == machine.best(32)
    assert [law.tokens(decoding) for decoding in sizes] == [machine.best(decoding) for decoding in sizes]


def test_a_size_that_was_never_seen_begins_as_the_next_smaller_one_ended() -> None:
    law = Measured(MOST)
    serve(law, Machine(right=0.0), 8, 4 * TRIAL)
    assert law.tokens(32) == 0
    assert law.tokens(1) == MOST


def test_texts_change_and_the_answer_with_them() -> None:
    law = Measured(MOST)
    assert serve(law, Machine(right=0.0), 1, 2000)[0] > 1800
    serve(law, Machine(right=0.9), 1, 2 * (LONGEST + TRIAL))
    assert serve(law, Machine(right=0.9), 1, 2 * TRIAL)[0] == 0


def test_one_moment_in_which_the_machine_was_busy_changes_nothing() -> None:
    law, machine = Measured(MOST), Machine(right=0.9)
    serve(law, machine, 1, 4 * TRIAL)
    assert law.tokens(1) == MOST
    law.observe(1, MOST, 30.0, 3)
    assert serve(law, machine, 1, 2 * SETTLED)[MOST] > 1.8 * SETTLED


def test_one_token_has_no_half() -> None:
    assert set(serve(Measured(1), Machine(), 1, 1000)) == {0, 1}


def test_what_somebody_said_is_not_measured() -> None:
    law = UpTo(4, 3)
    law.observe(1, 3, 1000.0, 1)
    assert [law.tokens(decoding) for decoding in (1, 4, 5)] == [3, 3, 0]
