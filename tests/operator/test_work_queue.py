"""Keyed work: one task a key, marks meanwhile are one more run, failures back off, one hanging key delays no other."""

import asyncio
from collections import Counter
from contextvars import ContextVar

import pytest
from headrace_operator import work_queue
from headrace_operator.kube import ApiUnavailable
from headrace_operator.work_queue import Key, WorkQueue

A, B = ("default", "a"), ("default", "b")


class Work:
    """Counts runs; each waits until the test lets it go on, or fails when it is told to."""

    def __init__(self) -> None:
        self.started: Counter[Key] = Counter()
        self.together: Counter[Key] = Counter()
        self.most_together = 0
        self.gates = {A: asyncio.Event(), B: asyncio.Event()}
        self.failing: set[Key] = set()
        self.failures: list[tuple[Key, str]] = []

    async def run(self, key: Key) -> None:
        self.started[key] += 1
        self.together[key] += 1
        self.most_together = max(self.most_together, self.together[key])
        try:
            await self.gates[key].wait()
            if key in self.failing:
                raise ValueError(f"{key[1]} is broken")
        finally:
            self.together[key] -= 1

    async def failed(self, key: Key, error: Exception) -> None:
        self.failures.append((key, str(error)))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_work_keeps_nothing_of_the_context_of_who_marked() -> None:
    held: ContextVar[str] = ContextVar("held")
    seen: list[str] = []

    async def work(key: Key) -> None:
        seen.append(held.get("nothing"))

    held.set("a watch's event, with its whole object")
    queue = WorkQueue(work, Work().failed)
    queue.mark(A)
    await settle()
    assert seen == ["nothing"]
    await queue.close()


async def test_marks_while_a_key_is_worked_on_are_one_more_run() -> None:
    work = Work()
    queue = WorkQueue(work.run, work.failed)
    queue.mark(A)
    await settle()
    for _ in range(5):
        queue.mark(A)
    await settle()
    assert work.started[A] == 1
    work.gates[A].set()
    await settle()
    assert work.started[A] == 2
    assert work.most_together == 1
    await queue.close()


async def test_a_key_that_hangs_delays_no_other() -> None:
    work = Work()
    queue = WorkQueue(work.run, work.failed)
    queue.mark(A)
    work.gates[B].set()
    for _ in range(3):
        queue.mark(B)
        await settle()
    assert work.started == {A: 1, B: 3}
    await queue.close()


async def test_a_failure_is_told_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, call, key: delays.append(delay) or loop.call_soon(call, key))
    work = Work()
    work.gates[A].set()
    work.failing.add(A)
    queue = WorkQueue(work.run, work.failed)
    queue.mark(A)
    for _ in range(9):
        await settle()
    assert work.failures[0] == (A, "a is broken")
    assert delays[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    work.failing.clear()
    await settle()
    tries = work.started[A]
    queue.mark(A)
    await settle()
    assert work.started[A] > tries, "a success ends the waiting"
    await queue.close()


async def test_an_api_server_that_was_away_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, call, key: delays.append(delay) or loop.call_soon(call, key))

    async def unavailable(key: Key) -> None:
        raise ApiUnavailable(503, "away")

    async def told(key: Key, error: Exception) -> None:
        assert isinstance(error, ApiUnavailable)

    queue = WorkQueue(unavailable, told)
    queue.mark(A)
    for _ in range(9):
        await settle()
    assert delays[:5] == [1, 2, 4, 5, 5]
    await queue.close()


@pytest.mark.parametrize(("is_asked", "runs"), [(True, 2), (False, 1)])
async def test_after_a_failure_only_what_its_user_changed_is_looked_at_at_once(
    is_asked: bool, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda *_: loop.call_at(loop.time() + 3600, print))  # never ends here
    work = Work()
    work.gates[A].set()
    work.failing.add(A)
    queue = WorkQueue(work.run, work.failed)
    queue.mark(A)
    await settle()
    for _ in range(5):
        queue.mark(A, is_asked=is_asked)
    await settle()
    assert work.started[A] == runs
    await queue.close()


async def test_a_failure_that_cannot_be_told_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.0)
    work = Work()
    work.gates[A].set()
    work.failing.add(A)

    async def deaf(key: Key, error: Exception) -> None:
        work.failing.clear()
        raise OSError("nobody listens")

    queue = WorkQueue(work.run, deaf)
    queue.mark(A)
    async with asyncio.timeout(300):
        while work.started[A] < 2:
            await asyncio.sleep(0.01)
    await queue.close()
