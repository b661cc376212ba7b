"""Requests that end early, in any state: every page and every place comes back, and those who stay are served."""

import random

from example_counts import examples
from headrace_server.engine.sequence import Sequence
from headrace_server.request import Finish, Priority
from hypothesis import given
from hypothesis import strategies as st
from simulation import Simulated, request_at, simulated

CUTS = 10_000
PAGES = 48  # of 16 tokens: too few for all who run


def assert_nothing_is_held(server: Simulated) -> None:
    scheduler = server.scheduler
    scheduler.check()
    assert scheduler.pages.available == PAGES
    assert (scheduler.waiting, scheduler.running) == (0, 0)
    assert all(life.ended is not None for life in server.lives.values())
    assert all(use.inside == 0 for use in server.admission._allowances._uses.values())


def test_ten_thousand_cuts_in_every_state_leave_every_page_free() -> None:
    dice, cut = random.Random(5), {"queued": 0, "prefilling": 0, "decoding": 0}
    server = simulated(pages=PAGES, max_running=12, max_tokens_per_step=64, prefix_cache=True, max_wait=1e9)
    while sum(cut.values()) < CUTS:
        for _ in range(dice.randint(0, 2)):
            deadline = server.now + dice.uniform(0.001, 2.0) if dice.random() < 0.5 else None
            server.arrive(
                request_at(
                    server.now, dice.randint(1, 600), dice.randint(1, 100), priority=dice.choice([*Priority]),
                    tenant=dice.choice("abc"), deadline=deadline,
                )
            )  # fmt: skip
        before = {life for life in server.lives.values() if life.ended is None}
        states = {life: state_of(life.sequence) for life in before}
        server.turn()
        for life in dice.sample(sorted(before, key=lambda one: one.sequence.number), min(len(before), 1)):
            states[life] = state_of(life.sequence)
            server.cancel(life.sequence)
        for life in before:
            if life.ended is not None and life.sequence.finish in {Finish.CANCELLED, Finish.EXPIRED}:
                cut[states[life]] += 1
        kept = {life for life in server.lives.values() if life.ended is None or life.sequence.steps_in_flight}
        server.lives = {life.sequence: life for life in kept}
        server.scheduler.check()
    while server.turn():
        pass
    assert_nothing_is_held(server)
    assert min(cut.values()) > 500, cut
    assert server.scheduler.preemptions > 100, "pages were short"


def state_of(sequence: Sequence) -> str:
    return "queued" if sequence.slot is None else "prefilling" if sequence.fill_left else "decoding"


asked = st.lists(
    st.tuples(st.floats(0, 0.5), st.sampled_from(Priority), st.integers(1, 500), st.integers(1, 200)),
    min_size=1, max_size=30,
)  # fmt: skip


@examples(40)
@given(asked, st.integers(1, 12), st.sampled_from([16, 64, 2048]), st.booleans())
def test_everybody_ends_however_short_the_pages_are(
    requests: list[tuple[float, Priority, int, int]], max_running: int, step: int, cache: bool
) -> None:
    server = simulated(pages=PAGES, max_running=max_running, max_tokens_per_step=step, prefix_cache=cache, max_wait=1e9)
    arrivals = sorted(
        (request_at(time, prompt, new, priority=priority) for time, priority, prompt, new in requests),
        key=lambda request: request.arrived_at,
    )
    server.run(arrivals, 1.0)
    for _ in range(200_000):
        if not server.turn():
            break
    assert_nothing_is_held(server)
    assert all(life.sequence.finish is Finish.LENGTH for life in server.lives.values())
