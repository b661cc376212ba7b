"""Who runs when. Steps are written as {slot: tokens}."""

import pytest
from engines import a_request
from headrace_server.config import EngineConfig
from headrace_server.engine.places import OVERTAKEN
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.request import Finish, Token


def a_scheduler(max_running: int = 8, max_tokens: int = 100, pages: int = 100, page_size: int = 4) -> Scheduler:
    config = EngineConfig(
        max_running=max_running, max_tokens_per_step=max_tokens, page_size=page_size, prefix_cache=False
    )
    return Scheduler(config, pages)


def step_of(scheduler: Scheduler, now: float = 0.0) -> Step:
    step = scheduler.next_step(now)
    assert step is not None
    return step


def shape(step: Step) -> dict[int, int]:
    return {chunk.slot: chunk.tokens for chunk in step.chunks}


def commit(scheduler: Scheduler, step: Step, token: int = 7) -> list[tuple[Sequence, Token]]:
    return list(scheduler.commit(step, [token] * step.samples).tokens)


def run_dry(scheduler: Scheduler) -> list[tuple[Sequence, Token]]:
    delivered = []
    while step := scheduler.next_step(0.0):
        delivered += commit(scheduler, step)
    return delivered


def test_nothing_to_do_is_no_step() -> None:
    assert a_scheduler().next_step(0.0) is None


def test_a_prompt_is_computed_at_once_and_then_answered_token_by_token() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_request(prompt=10, max_new_tokens=3))
    shapes = []
    while step := scheduler.next_step(0.0):
        shapes.append(shape(step))
        commit(scheduler, step)
    assert shapes == [{0: 10}, {0: 1}, {0: 1}]


def test_the_last_token_is_never_fed_back() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_request(prompt=10, max_new_tokens=1))
    commit(scheduler, step_of(scheduler))
    assert scheduler.next_step(0.0) is None


def test_a_long_prompt_goes_in_chunks_while_others_decode() -> None:
    scheduler = a_scheduler(max_tokens=8)
    scheduler.add(a_request(prompt=2, max_new_tokens=9))
    commit(scheduler, step_of(scheduler))
    scheduler.add(a_request(prompt=16, max_new_tokens=2))

    steps = [step_of(scheduler)]
    for _ in range(2):
        commit(scheduler, steps[-1])
        steps.append(step_of(scheduler))
    assert [shape(step) for step in steps] == [{0: 1, 1: 7}, {0: 1, 1: 7}, {0: 1, 1: 2}]
    assert [step.samples for step in steps] == [1, 1, 2]
    fed = [token for step in steps for chunk in step.chunks for token in chunk.token_ids]
    assert tuple(fed) == a_request(prompt=16).prompt


def test_every_running_sequence_is_in_every_step_however_long_a_prompt_is() -> None:
    scheduler = a_scheduler(max_tokens=4)
    for _ in range(2):
        scheduler.add(a_request(prompt=3, max_new_tokens=20))
    scheduler.add(a_request(prompt=40, max_new_tokens=2))
    scheduler.add(a_request(prompt=40, max_new_tokens=2))
    while scheduler.running < 3:
        commit(scheduler, step_of(scheduler))
    for _ in range(5):
        step = step_of(scheduler)
        assert len(step.chunks) == scheduler.running
        commit(scheduler, step)


def test_no_more_run_together_than_allowed() -> None:
    scheduler = a_scheduler(max_running=2)
    for _ in range(3):
        scheduler.add(a_request())
    assert len(step_of(scheduler).chunks) == 2
    assert (scheduler.running, scheduler.waiting) == (2, 1)


def test_pages_are_granted_as_the_tokens_come() -> None:
    scheduler = a_scheduler(pages=9, page_size=4)
    scheduler.add(a_request(prompt=5, max_new_tokens=30))
    granted = []
    for _ in range(5):
        step = step_of(scheduler)
        granted.append([(grant.slot, grant.index) for grant in step.grants])
        commit(scheduler, step)
    assert granted == [[(0, 0), (0, 1)], [], [], [], [(0, 2)]]
    assert scheduler.pages.free == 6


def test_a_request_starts_only_with_the_pages_of_its_prompt_and_a_token() -> None:
    scheduler = a_scheduler(pages=3, page_size=4)
    scheduler.add(a_request(prompt=5, max_new_tokens=4))
    scheduler.add(a_request(prompt=4, max_new_tokens=4))
    assert shape(step_of(scheduler)) == {0: 5}
    assert (scheduler.pages.free, scheduler.waiting) == (1, 1)


def test_those_who_fit_overtake_one_that_waits_for_pages_so_many_times_and_no_more() -> None:
    scheduler = a_scheduler(pages=20, page_size=4)
    running = scheduler.add(a_request(prompt=4, max_new_tokens=60))
    commit(scheduler, step_of(scheduler))
    long = scheduler.add(a_request(prompt=74, max_new_tokens=1))  # 19 pages: more than the other leaves
    small = [scheduler.add(a_request(prompt=1, max_new_tokens=1)) for _ in range(OVERTAKEN + 3)]
    while running.finish is None:
        commit(scheduler, step_of(scheduler))
        begun = sum(sequence.queue_wait is not None for sequence in small)
    assert (begun, long.queue_wait) == (OVERTAKEN, None)
    assert next(start.prompt_tokens for start in step_of(scheduler).starts) == 74


def test_a_stop_token_ends_the_answer_and_is_not_delivered() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_request(max_new_tokens=9, stop=7))
    commit(scheduler, step_of(scheduler), token=3)
    [(_, last)] = commit(scheduler, step_of(scheduler), token=7)
    assert (last.id, last.finish) == (None, Finish.STOP)
    assert scheduler.pages.free == scheduler.pages.total


def test_the_queue_wait_ends_with_the_first_step_and_comes_with_every_token() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_request(arrived_at=10.0, max_new_tokens=2))
    assert scheduler.queue.oldest(now=12.5) == 2.5
    step = step_of(scheduler, now=13.0)
    assert [start.queue_wait for start in step.starts] == [3.0]
    assert scheduler.queue.oldest(now=20.0) == 0.0
    first = commit(scheduler, step)
    last = commit(scheduler, step_of(scheduler, now=30.0))
    assert [token.queue_wait for _, token in first + last] == [3.0, 3.0]


class TestEnding:
    def test_a_waiting_request_is_gone_at_once(self) -> None:
        scheduler = a_scheduler()
        assert scheduler.end(scheduler.add(a_request()), Finish.CANCELLED)
        assert scheduler.waiting == 0
        assert scheduler.next_step(0.0) is None

    def test_pages_are_free_at_once_and_what_a_step_still_chooses_is_nobodys(self) -> None:
        scheduler = a_scheduler()
        sequence = scheduler.add(a_request())
        step = step_of(scheduler)
        assert scheduler.end(sequence, Finish.CANCELLED)
        assert scheduler.pages.free == scheduler.pages.total

        committed = scheduler.commit(step, [7])
        assert (committed.tokens, committed.ended, committed.wasted) == ((), (), 1)

    def test_a_request_ends_once(self) -> None:
        scheduler = a_scheduler()
        sequence = scheduler.add(a_request(max_new_tokens=1))
        commit(scheduler, step_of(scheduler))
        assert not scheduler.end(sequence, Finish.CANCELLED)
        assert sequence.finish is Finish.LENGTH

    def test_abandoning_frees_what_steps_in_flight_hold(self) -> None:
        scheduler = a_scheduler(max_running=1)
        sequences = {scheduler.add(a_request()), scheduler.add(a_request())}
        step_of(scheduler)
        assert set(scheduler.abandon(Finish.FAILED)) == sequences
        assert scheduler.pages.free == scheduler.pages.total
        assert (scheduler.waiting, scheduler.running) == (0, 0)


def test_the_next_one_gets_the_slot_before_the_last_token_is_known() -> None:
    scheduler = a_scheduler(max_running=1)
    for _ in range(2):
        scheduler.add(a_request(prompt=3, max_new_tokens=1))
    steps = [step_of(scheduler), step_of(scheduler)]
    assert [shape(step) for step in steps] == [{0: 3}, {0: 3}]
    assert (scheduler.running, scheduler.waiting) == (2, 0)
    assert [len(commit(scheduler, step)) for step in steps] == [1, 1]
    assert scheduler.running == 0


class TestPreemption:
    """4 pages of 4 tokens; two requests of 4 + 8 tokens, so both want a third page when only their second is left."""

    def two(self) -> tuple[Scheduler, Sequence, Sequence]:
        scheduler = a_scheduler(pages=4, page_size=4)
        first, second = (scheduler.add(a_request(prompt=prompt, max_new_tokens=9)) for prompt in (4, 3))
        return scheduler, first, second

    def test_takes_from_the_one_that_loses_least(self) -> None:
        scheduler, first, second = self.two()
        while not scheduler.preemptions:
            commit(scheduler, step_of(scheduler))
        assert (scheduler.running, scheduler.waiting) == (1, 1)
        assert first.slot is not None
        assert second.pages == []
        assert scheduler.recomputed_tokens == 7
        scheduler.check()

    def test_goes_on_with_what_was_answered_before(self) -> None:
        scheduler, first, second = self.two()
        refilled = []
        answers: dict[Sequence, list[Token]] = {first: [], second: []}
        number = 0
        while step := scheduler.next_step(0.0):
            refilled += [chunk.token_ids for chunk in step.chunks if len(chunk.token_ids) > 4]
            number += 1
            for sequence, token in scheduler.commit(step, [100 + number] * step.samples).tokens:
                answers[sequence].append(token)
        assert [len(answer) for answer in answers.values()] == [9, 9]
        known = [token.id for token in answers[second]][: len(refilled[0]) - 3]
        assert refilled == [(*second.request.prompt, *known)]
        assert scheduler.preemptions == 1

    def test_does_not_count_as_waiting_for_the_first_time(self) -> None:
        scheduler, *_ = self.two()
        waits = []
        while step := scheduler.next_step(5.0):
            waits += [start.queue_wait for start in step.starts]
            if scheduler.preemptions:
                assert scheduler.queue.oldest(now=100.0) == 0.0
            commit(scheduler, step)
        assert waits == [5.0, 5.0, None]

    def test_waits_for_the_token_that_a_step_in_flight_chooses(self) -> None:
        scheduler, _, second = self.two()
        steps = [step_of(scheduler)]
        while True:
            steps.append(step_of(scheduler))
            if scheduler.preemptions:
                break
            commit(scheduler, steps.pop(0))
        assert second.steps_in_flight == 1
        known = len(second.answer)
        commit(scheduler, steps.pop(0))
        assert len(second.answer) == known + 1, "what was computed before is not thrown away"

    def test_of_a_request_that_ends_meanwhile(self) -> None:
        scheduler, _, second = self.two()
        while not scheduler.preemptions:
            commit(scheduler, step_of(scheduler))
        assert scheduler.end(second, Finish.CANCELLED)
        assert scheduler.waiting == 0
        run_dry(scheduler)
        assert scheduler.pages.free == scheduler.pages.total


class TestPlanningAhead:
    """The next step may be planned before the tokens of this one are known."""

    def test_the_next_step_follows_on(self) -> None:
        scheduler = a_scheduler()
        scheduler.add(a_request(prompt=5, max_new_tokens=3))
        steps = [step_of(scheduler), step_of(scheduler), step_of(scheduler)]
        assert [chunk.start for step in steps for chunk in step.chunks] == [0, 5, 6]
        assert scheduler.next_step(0.0) is None  # the third one chooses the last token
        finishes = [token.finish for step in steps for _, token in commit(scheduler, step)]
        assert finishes == [None, None, Finish.LENGTH]

    def test_a_token_after_the_stop_token_is_nobodys(self) -> None:
        scheduler = a_scheduler()
        sequence = scheduler.add(a_request(max_new_tokens=9, stop=7))
        steps = [step_of(scheduler), step_of(scheduler)]
        committed = scheduler.commit(steps[0], [7])
        assert (committed.tokens[0][1].finish, committed.ended) == (Finish.STOP, (sequence,))
        committed = scheduler.commit(steps[1], [3])
        assert (committed.tokens, committed.ended, committed.wasted) == ((), (), 1)
        assert sequence.answer == [7]


def test_a_runner_that_returns_too_few_tokens_is_found_out() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_request())
    with pytest.raises(ValueError, match="0 tokens for 1 choices"):
        scheduler.commit(step_of(scheduler), [])


def test_tokens_computed_are_the_work_that_was_done() -> None:
    scheduler = a_scheduler(max_tokens=6)
    sequences = [scheduler.add(a_request(prompt=prompt, max_new_tokens=3)) for prompt in (5, 9)]
    run_dry(scheduler)
    assert [sequence.tokens_computed for sequence in sequences] == [8, 12]
