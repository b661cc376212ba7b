"""Steps that are timed by a formula: whatever a machine's times look like, nobody waits long once they were seen."""

from dataclasses import dataclass

import pytest
from headrace_server.engine.pace import PROOF, SLOWER, SMALLEST, PrefillPace
from hypothesis import given
from hypothesis import strategies as st
from machines import MACHINES, Machine

MOST = 2048  # tokens in a step
BOUND = 3.0  # times the usual step


DECODING = st.integers(1, 64)


@dataclass(frozen=True, slots=True)
class Joined:
    filling: int
    context: int
    seconds: float


def join(pace: PrefillPace, machine: Machine, prompt: int, decoding: int, cached: int = 0) -> list[Joined]:
    """The steps until the prompt is in, of which `cached` tokens were found. As when steps overlap, one is observed
    after the next is planned."""
    steps: list[Joined] = []
    context = cached
    while context < prompt:
        filling = min(prompt - context, pace.prefill_tokens(decoding, context))
        if steps:
            observe(pace, decoding, steps[-1])
        steps.append(Joined(filling, context, machine.seconds(decoding, filling, context)))
        context += filling
        assert len(steps) < 10 + 2 * (prompt - cached) / SMALLEST, "the prompt goes on"
    observe(pace, decoding, steps[-1])
    return steps


def observe(pace: PrefillPace, decoding: int, step: Joined) -> None:
    pace.observe(decoding, step.filling, step.context, step.seconds)


def late(steps: list[Joined], machine: Machine, decoding: int) -> list[Joined]:
    """Those for which the decoding ones had to wait too long, though the machine could do better."""
    bound = BOUND * machine.seconds(decoding)
    return [step for step in steps if step.seconds > bound and machine.bears(decoding, step.context)]


@given(MACHINES, DECODING, st.integers(1, 4096))
def test_nobody_waits_long_for_the_chunks_of_a_prompt_once_another_was_seen(
    machine: Machine, decoding: int, prompt: int
) -> None:
    pace = PrefillPace(MOST)
    join(pace, machine, 4096, decoding)
    assert late(join(pace, machine, prompt, decoding), machine, decoding) == []


@given(MACHINES, DECODING)
def test_few_wait_long_for_the_first_prompt_ever(machine: Machine, decoding: int) -> None:
    pace = PrefillPace(MOST)
    assert len(late(join(pace, machine, 4096, decoding), machine, decoding)) <= 4


@given(MACHINES, DECODING, st.integers(0, 4095))
def test_few_wait_long_for_a_prompt_that_begins_deep_in_a_cached_one(
    machine: Machine, decoding: int, cached: int
) -> None:
    pace = PrefillPace(MOST)
    join(pace, machine, 64, decoding)
    assert len(late(join(pace, machine, 4096, decoding, cached), machine, decoding)) <= 4


@given(MACHINES, DECODING, DECODING)
def test_what_is_usual_is_measured_again_when_others_decode(machine: Machine, before: int, now: int) -> None:
    """Only steps with prefill would never tell."""
    pace = PrefillPace(MOST)
    for decoding in (before, now):
        join(pace, machine, 4096, decoding)
    assert late(join(pace, machine, 4096, now), machine, now) == []


@given(MACHINES, DECODING)
def test_a_prompt_gets_most_of_what_the_decoding_ones_bear(machine: Machine, decoding: int) -> None:
    """The other side of the guarantee: chunks are not smaller than they have to be."""
    pace = PrefillPace(MOST)
    for _ in range(3):
        join(pace, machine, 4096, decoding)
    steps = [step for step in join(pace, machine, 4096, decoding) if step.filling][:-1]
    least = 0.7 * SLOWER * machine.seconds(decoding)
    small = [step for step in steps if step.seconds < least and SMALLEST < step.filling < MOST]
    assert len(small) <= len(steps) / 10 + 4


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1.0, 1e6])
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, MOST), st.integers(0, 10**6)), max_size=200))
def test_a_prompt_goes_on_whatever_was_measured(seconds: float, steps: list[tuple[int, int, int]]) -> None:
    pace = PrefillPace(MOST)
    for decoding, filling, context in steps:
        pace.observe(decoding, filling, context, seconds)
    for decoding in range(65):
        if not pace.prefill_tokens(decoding, 0):  # such a step tells what is usual
            pace.observe(decoding, 0, 0, seconds)
        assert SMALLEST <= pace.prefill_tokens(decoding, 0) <= MOST


@given(MACHINES, DECODING, st.integers(0, 10**6))
def test_everything_when_nobody_decodes(machine: Machine, decoding: int, context: int) -> None:
    pace = PrefillPace(MOST)
    assert pace.prefill_tokens(0, context) == MOST
    join(pace, machine, 4096, decoding)
    assert pace.prefill_tokens(0, context) == MOST


def test_one_step_in_many_tells_how_long_decoding_takes_alone() -> None:
    pace = PrefillPace(MOST)
    without = [not pace_step(pace) for _ in range(10 * PROOF)]
    assert 10 <= sum(without) <= 12


def pace_step(pace: PrefillPace) -> int:
    filling = pace.prefill_tokens(8, 0)
    pace.observe(8, filling, 0, 0.010 + 0.0001 * filling)
    return filling


def test_a_busy_moment_is_no_trend() -> None:
    machine, pace = Machine(0.03, 0.0005, 0.001, 0, 0), PrefillPace(MOST)
    join(pace, machine, 4096, 16)
    usual = pace.prefill_tokens(16, 0)
    pace.observe(16, usual, 0, 7.0)
    assert pace.prefill_tokens(16, 0) >= usual / 2
    pace.observe(16, 0, 0, 7.0)
    assert pace.prefill_tokens(16, 0) <= 2 * usual


def test_who_decodes_alone_is_not_measured_by_what_many_bear() -> None:
    machine, pace = Machine(0.02, 0.002, 0.001, 0, 0), PrefillPace(MOST)
    for decoding in (1, 64):
        join(pace, machine, 4096, decoding)
    assert pace.prefill_tokens(1, 0) < pace.prefill_tokens(64, 0) / 3
