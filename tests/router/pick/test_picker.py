"""Who is held, who goes on when, and who is told no: decisions of the picker as a table of moments."""

from collections.abc import Iterable

import pytest
from headrace_router.pick.ejection import FAILURES, FIRST, LONGEST
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import FILL, Picker, Terms
from headrace_router.values import Asked, Door, Endpoint, Found, Load, Pick, Ports, Reason, Refusal
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0
A, B = (Endpoint(uid, uid, "127.0.0.1", Ports(1, 2, 3)) for uid in ("a", "b"))


def picker(requests: int = 10, seconds: float = 60.0) -> Picker:
    return Picker(Terms(Limits(requests, seconds), start_seconds=90.0))


def asked(caller: str = "somebody", may_wait: bool = True) -> Asked:
    return Asked(Door.HTTP, None, caller, may_wait)


def names(released: Iterable[tuple[str, Pick | Refusal]]) -> list[str]:
    return [request for request, _ in released]


def test_without_a_replica_requests_are_held_and_go_on_in_order_when_one_is_there() -> None:
    one = picker()
    assert [one.ask(f"r{n}", asked(), NOW) for n in range(3)] == [None] * 3
    assert names(one.released(NOW + 1)) == []
    one.there_are(Found((A,)))
    released = list(one.released(NOW + 2))
    assert names(released) == ["r0", "r1", "r2"]
    assert all(isinstance(answer, Pick) and answer.endpoints == (A,) for _, answer in released)
    assert one.held == 0


def test_held_requests_go_on_no_faster_than_the_replica_takes_them() -> None:
    one = picker(requests=100)
    for n in range(20):
        one.ask(f"r{n}", asked(), NOW)
    one.there_are(Found((A,)))
    one.heard("a", Load(inside=0, max_running=4, at=NOW))
    assert len(names(one.released(NOW))) == FILL * 4
    assert one.held == 20 - FILL * 4
    one.finished("r0", reached=True, now=NOW + 1)
    assert names(one.released(NOW + 1)) == [f"r{FILL * 4}"]


def test_who_comes_while_others_are_held_waits_behind_them() -> None:
    one = picker(requests=100)
    for n in range(9):
        one.ask(f"r{n}", asked(), NOW)
    one.there_are(Found((A,)))
    one.heard("a", Load(inside=0, max_running=4, at=NOW))
    list(one.released(NOW))
    assert one.ask("late", asked(), NOW) is None
    assert isinstance(one.ask("probe", asked(may_wait=False), NOW), Pick)


def test_callers_take_turns() -> None:
    one = picker()
    for request, caller in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        one.ask(request, asked(caller), NOW)
    one.there_are(Found((A,)))
    assert names(one.released(NOW)) == ["a1", "b1", "a2", "a3"]


@pytest.mark.parametrize(
    ("door", "reason"),
    [(asked(may_wait=False), Reason.NO_REPLICA), (asked(), Reason.TOO_MANY_HELD)],
)
def test_who_cannot_be_held_hears_when_to_come_back(door: Asked, reason: Reason) -> None:
    one = picker(requests=0)
    refusal = one.ask("r", door, NOW)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == (reason, 90.0)


def test_nobody_is_held_for_longer_than_the_limit() -> None:
    one = picker(seconds=60)
    one.ask("early", asked(), NOW)
    one.ask("later", asked(), NOW + 30)
    assert names(one.released(NOW + 59)) == []
    ((request, refusal),) = one.released(NOW + 60)
    assert request == "early"
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.HELD_TOO_LONG
    assert one.held == 1


def test_a_client_that_leaves_makes_room() -> None:
    one = picker(requests=1)
    one.ask("r0", asked(), NOW)
    assert isinstance(one.ask("r1", asked(), NOW), Refusal)
    one.gave_up("r0")
    assert one.ask("r1", asked(), NOW) is None


def test_a_router_that_leaves_takes_nothing_and_tells_who_is_held() -> None:
    one = picker()
    one.ask("held", asked(), NOW)
    ((request, refusal),) = one.drain()
    assert (request, refusal.reason) == ("held", Reason.DRAINING)
    again = one.ask("new", asked(), NOW)
    assert isinstance(again, Refusal)
    assert again.reason is Reason.DRAINING


def fail(one: Picker, times: int, now: float) -> None:
    for n in range(times):
        one.ask(f"f{now}-{n}", asked(), now)
        one.busy.sent(f"f{now}-{n}", "a", now)
        one.finished(f"f{now}-{n}", reached=False, now=now)


def firsts(one: Picker, now: float) -> set[str]:
    """Where ten requests go that are there together."""
    found = set()
    for n in range(10):
        pick = one.ask(f"p{now}-{n}", asked(), now)
        assert isinstance(pick, Pick)
        found.add(pick.endpoints[0].uid)
    for n in range(10):
        one.busy.finished(f"p{now}-{n}", now)
    return found


def test_a_replica_that_fails_is_left_out_for_a_while_and_longer_the_next_time() -> None:
    one = picker()
    one.there_are(Found((A, B)))
    fail(one, FAILURES, NOW)
    assert firsts(one, NOW + FIRST - 0.1) == {"b"}
    assert firsts(one, NOW + FIRST + 0.1) == {"a", "b"}
    fail(one, FAILURES, NOW + 100)
    assert firsts(one, NOW + 100 + FIRST + 0.1) == {"b"}
    assert firsts(one, NOW + 100 + 2 * FIRST + 0.1) == {"a", "b"}


def test_one_answer_makes_good() -> None:
    one = picker()
    one.there_are(Found((A, B)))
    fail(one, FAILURES - 1, NOW)
    one.busy.sent("good", "a", NOW)
    one.finished("good", reached=True, now=NOW)
    fail(one, FAILURES - 1, NOW)
    assert firsts(one, NOW) == {"a", "b"}


def test_the_last_replica_is_never_left_out() -> None:
    one = picker()
    one.there_are(Found((A,)))
    fail(one, 10 * FAILURES, NOW)
    assert firsts(one, NOW + LONGEST / 2) == {"a"}


@given(st.lists(st.tuples(st.sampled_from(["ask", "finish", "leave", "tick", "up", "down"]), st.integers(0, 9))))
def test_every_request_has_one_end(steps: list[tuple[str, int]]) -> None:
    one, now = picker(requests=4, seconds=5), NOW
    waiting: set[str] = set()
    sent: set[str] = set()
    for n, (step, number) in enumerate(steps):
        now += 1
        if step == "ask":
            answer = one.ask(f"r{n}", asked(str(number % 3)), now)
            (waiting if answer is None else sent if isinstance(answer, Pick) else set()).add(f"r{n}")
        elif step == "finish" and sent:
            one.finished(sent.pop(), reached=number != 0, now=now)
        elif step == "leave" and waiting:
            one.gave_up(waiting.pop())
        elif step in ("up", "down"):
            one.there_are(Found((A, B)[: number % 3] if step == "up" else ()))
        for request, answer in one.released(now):
            assert request in waiting
            waiting.discard(request)
            if isinstance(answer, Pick):
                sent.add(request)
        assert one.held == len(waiting)
        assert set(one.busy.under_way) == sent
