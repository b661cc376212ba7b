"""Long prompts and those who decode, together for hundreds of steps on a simulated machine: neither side starves."""

from collections import deque
from dataclasses import dataclass, field

from engines import a_request
from example_counts import examples
from headrace_server.config import EngineConfig
from headrace_server.engine.pace import SMALLEST
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from hypothesis import example, given
from hypothesis import strategies as st
from machines import MACHINES, Machine

BOUND = 3.0  # times the usual step: what is promised to those who decode
PAGES = 4096
LEARNING = 300  # prompt tokens for which the machine has not shown its times yet


@dataclass
class Simulation:
    """The overlapped loop: a step is planned while the one before computes, and observed when it is done."""

    machine: Machine
    scheduler: Scheduler
    in_flight: deque[Step] = field(default_factory=deque)
    steps: list[tuple[Step, float]] = field(default_factory=list)  # with their seconds

    def turn(self) -> None:
        step = self.scheduler.next_step(0.0)
        if step is not None:
            self.in_flight.append(step)
        if step is None or len(self.in_flight) > 1:
            done = self.in_flight.popleft()
            self.scheduler.commit(done, [7] * done.samples)
            seconds = self.machine.seconds_of(done)
            self.scheduler.observe(done, seconds)
            self.steps.append((done, seconds))

    def until(self, sequences: list[Sequence], tokens: int) -> None:
        while any(len(sequence.answer) < tokens for sequence in sequences):
            self.turn()


def simulation(machine: Machine, max_tokens: int = 2048) -> Simulation:
    config = EngineConfig(max_running=32, max_tokens_per_step=max_tokens, page_size=16)
    return Simulation(machine, Scheduler(config, PAGES))


# The last token of a prompt in a step with the first 130 of the next: all were taken for tokens after a long context.
@example(Machine(weights=0.042, sequence=0.0, token=0.00012, read=3.75e-7, gather=0.0), 12, [402, 727])
@examples(40)
@given(MACHINES, st.integers(1, 16), st.lists(st.integers(300, 3000), min_size=1, max_size=3))
def test_neither_long_prompts_nor_those_who_decode(machine: Machine, decoders: int, prompts: list[int]) -> None:
    run = simulation(machine)
    decoding = [run.scheduler.add(a_request((number,) * 8, 4000)) for number in range(decoders)]
    run.until(decoding, 8)
    run.until([run.scheduler.add(a_request((100,) * 3000, 1))], 1)  # from which the machine's times are learned
    run.steps.clear()
    before = [len(sequence.answer) for sequence in decoding]
    long = [run.scheduler.add(a_request((101 + number,) * prompt, 1)) for number, prompt in enumerate(prompts)]
    run.until(long, 1)

    assert len(run.steps) <= sum(prompts) / SMALLEST * 1.1 + 10, "prompts go on"
    gained = [len(sequence.answer) - start for sequence, start in zip(decoding, before, strict=True)]
    assert all(len(run.steps) - 2 <= tokens for tokens in gained), "each decodes in every step"
    usual = machine.seconds(decoders)
    late = [seconds for step, seconds in run.steps if seconds > BOUND * usual and bearable(machine, decoders, step)]
    assert late == []


def bearable(machine: Machine, decoders: int, step: Step) -> bool:
    """Prompts share a step's room; each that starts in it may add a token and what its own context costs."""
    fills = [chunk for chunk in step.chunks if chunk.token_ids]
    return len(fills) == 1 and machine.bears(decoders, fills[0].start)


@examples(100)
@given(MACHINES, st.integers(1, 2048), st.integers(1, 4000))
def test_a_prompt_alone_takes_all_that_a_step_may_hold(machine: Machine, max_tokens: int, prompt: int) -> None:
    run = simulation(machine, max_tokens)
    run.until([run.scheduler.add(a_request((5,) * prompt, 1))], 1)
    assert len(run.steps) == -(-prompt // max_tokens)
