"""Whether guessing pays is what the steps say, whatever they said before."""

from dataclasses import dataclass

import pytest
from headrace_server.engine.guessing import LONGEST, SETTLED, TRIAL, Measured, UpTo


@dataclass(frozen=True, slots=True)
class Machine:
    """A step takes `fixed` and `row` for each row of it; a guess of 4 tokens brings `accepted` of them."""

    fixed: float = 0.010
    row: float = 0.0005
    accepted: float = 2.0

    def seconds(self, decoding: int, guessing: bool) -> float:
        return self.fixed + self.row * decoding * (5 if guessing else 1)

    def rate(self, decoding: int, guessing: bool) -> float:
        return decoding * (1 + self.accepted * guessing) / self.seconds(decoding, guessing)


def serve(law: Measured, machine: Machine, decoding: int, steps: int) -> float:
    """Share of the steps that held guesses."""
    held = 0
    for number in range(steps):
        guessing = law.pays(decoding)
        held += guessing
        accepted = int(machine.accepted * (number + 1)) - int(machine.accepted * number)
        tokens = decoding * (1 + accepted) if guessing else decoding
        law.observe(decoding, guessing, machine.seconds(decoding, guessing), tokens)
    return held / steps


@pytest.mark.parametrize("decoding", [1, 2, 3, 7, 16, 33, 64, 128])
@pytest.mark.parametrize("accepted", [0.0, 0.4, 1.0, 2.0, 3.5])
def test_the_faster_way_is_kept_at_each_size(decoding: int, accepted: float) -> None:
    machine = Machine(accepted=accepted)
    share = serve(Measured(), machine, decoding, 20 * SETTLED)
    guessing, plain = machine.rate(decoding, True), machine.rate(decoding, False)
    if guessing > 1.05 * plain:
        assert share > 0.9
    elif plain > 1.05 * guessing:
        assert share < 0.1


def test_other_sizes_have_their_own_answer() -> None:
    law, machine = Measured(), Machine(row=0.004)
    for decoding in (1, 2, 4, 8, 16, 32):
        serve(law, machine, decoding, 3 * TRIAL)
    faster = [machine.rate(decoding, True) > machine.rate(decoding, False) for decoding in (1, 2, 4, 8, 16, 32)]
    assert faster[0]
    assert not faster[-1]
    assert [law.pays(decoding) for decoding in (1, 2, 4, 8, 16, 32)] == faster


def test_a_size_that_was_never_seen_begins_as_the_next_smaller_one_ended() -> None:
    law = Measured()
    serve(law, Machine(accepted=0.0), 8, 3 * TRIAL)
    assert not law.pays(32)
    assert law.pays(1)


def test_texts_change_and_the_answer_with_them() -> None:
    law = Measured()
    assert serve(law, Machine(accepted=0.0), 1, 2000) < 0.1
    serve(law, Machine(accepted=3.0), 1, LONGEST + TRIAL)
    assert serve(law, Machine(accepted=3.0), 1, 2 * TRIAL) == 1


def test_one_moment_in_which_the_machine_was_busy_changes_nothing() -> None:
    law, machine = Measured(), Machine()
    serve(law, machine, 1, 3 * TRIAL)
    assert law.pays(1)
    law.observe(1, True, 30.0, 3)
    serve(law, machine, 1, 2 * SETTLED + 3 * TRIAL)
    assert serve(law, machine, 1, 2 * TRIAL) == 1


def test_what_somebody_said_is_not_measured() -> None:
    law = UpTo(4)
    law.observe(1, True, 1000.0, 1)
    assert [law.pays(decoding) for decoding in (1, 4, 5)] == [True, True, False]
