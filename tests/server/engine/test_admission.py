"""Who is let into the queue, by its bounds and its tenant's; when the others should come again; how fast it drains."""

from dataclasses import replace
from typing import Any

import pytest
from example_counts import examples
from headrace_server.config import EngineConfig
from headrace_server.engine.admission import Admission, Backlog
from headrace_server.engine.drain_rate import ENOUGH, DrainRate
from headrace_server.errors import Overloaded, Refusal
from headrace_server.request import Priority, Request
from headrace_server.tenants import Tenant, Tenants
from hypothesis import given
from hypothesis import strategies as st
from simulation import request_at

INTERACTIVE, STANDARD, BATCH = Priority
NOTHING = Backlog(
    requests=dict.fromkeys(Priority, 0),
    tokens=dict.fromkeys(Priority, 0),
    tokens_per_second=dict.fromkeys(Priority),
    oldest=0.0,
    answers=dict.fromkeys(Priority, 0),
    answers_per_second=dict.fromkeys(Priority),
)


def a_backlog(requests: int = 0, tokens: int = 0, rate: float | None = None, of: Priority = STANDARD) -> Backlog:
    return replace(
        NOTHING,
        requests={**NOTHING.requests, of: requests},
        tokens={**NOTHING.tokens, of: tokens},
        tokens_per_second=dict.fromkeys(Priority, rate),
    )


def of_answers(backlog: Backlog, answers: int, rate: float | None, of: Priority = STANDARD) -> Backlog:
    waiting = {**NOTHING.answers, of: answers}
    return replace(backlog, answers=waiting, answers_per_second=dict.fromkeys(Priority, rate))


def a_request(priority: Priority = STANDARD, tenant: str = "") -> Request:
    return request_at(0.0, 30, 10, priority=priority, tenant=tenant)  # 40 tokens


@pytest.mark.parametrize(
    ("config", "backlog", "priority", "told"),
    [
        pytest.param({}, a_backlog(), STANDARD, None, id="nothing waits"),
        pytest.param({"max_waiting": 8}, a_backlog(7), STANDARD, None, id="one place is left"),
        pytest.param({"max_waiting": 8}, a_backlog(8), STANDARD, "8 requests are waiting", id="full"),
        pytest.param({"max_waiting": 8}, a_backlog(8), BATCH, None, id="offline work waits elsewhere"),
        pytest.param({"max_waiting": 8}, a_backlog(4, of=BATCH), BATCH, "4 requests", id="and half as much of it"),
        pytest.param({"max_waiting": 8}, a_backlog(4, of=BATCH), STANDARD, None, id="and takes no online place"),
        pytest.param({"max_waiting": 8}, a_backlog(8), INTERACTIVE, "8 requests", id="full for the urgent, too"),
        pytest.param({"max_waiting": 1}, a_backlog(), BATCH, None, id="half of one place is one"),
        pytest.param({"max_waiting_tokens": 100}, a_backlog(1, 60), STANDARD, None, id="just fits"),
        pytest.param(
            {"max_waiting_tokens": 100}, a_backlog(1, 61), STANDARD, "requests of 61 tokens", id="a token more"
        ),
        pytest.param({"max_waiting_tokens": 10}, a_backlog(), STANDARD, None, id="alone it may be large"),
        pytest.param({"max_wait": 10.0}, a_backlog(9, 500, 100.0), STANDARD, None, id="drains in half of the wait"),
        pytest.param({"max_wait": 10.0}, a_backlog(9, 501, 100.0), STANDARD, "about 5.0 s", id="does not"),
        pytest.param({"max_wait": 10.0}, a_backlog(9, 4000, 100.0, BATCH), BATCH, None, id="offline work is patient"),
        pytest.param({"max_wait": 0.1}, a_backlog(9, 10**6, None), STANDARD, None, id="nobody has measured it"),
        pytest.param(
            {"max_wait": 10.0},
            of_answers(a_backlog(9, 400, 100.0), 60, 10.0),
            STANDARD,
            "about 6.0 s",
            id="answers",
        ),
        pytest.param(
            {"max_wait": 10.0},
            of_answers(a_backlog(9, 501, 100.0), 40, 10.0),
            STANDARD,
            "about 5.0 s",
            id="prompts",
        ),
        pytest.param(
            {"max_wait": 10.0}, of_answers(a_backlog(9, 400, 100.0), 60, None), STANDARD, None, id="one rate is known"
        ),
    ],
)
def test_room(config: dict[str, Any], backlog: Backlog, priority: Priority, told: str | None) -> None:
    admission = Admission(EngineConfig(**config))
    if told is None:
        admission.check(a_request(priority), backlog, now=0.0)
    else:
        with pytest.raises(Overloaded, match=told) as refused:
            admission.check(a_request(priority), backlog, now=0.0)
        assert refused.value.reason is Refusal.OVERLOADED


@pytest.mark.parametrize(
    ("backlog", "seconds"),
    [
        pytest.param(a_backlog(8, 300, 100.0), 3.0, id="when what waits has begun"),
        pytest.param(a_backlog(8, 1, 100.0), 0.1, id="not at once"),
        pytest.param(a_backlog(8, 10**6, 100.0), 60.0, id="not never"),
        pytest.param(replace(a_backlog(8, 300), oldest=7.0), 7.0, id="a guess: as long as the first one has waited"),
    ],
)
def test_when_to_come_again(backlog: Backlog, seconds: float) -> None:
    with pytest.raises(Overloaded) as refused:
        Admission(EngineConfig(max_waiting=8)).check(a_request(), backlog, now=0.0)
    assert refused.value.retry_after == seconds


def test_who_is_more_urgent_does_not_wait_for_who_is_less() -> None:
    backlog = a_backlog(8, 300, 100.0)
    assert (backlog.wait(INTERACTIVE), backlog.wait(STANDARD), backlog.wait(BATCH)) == (0.0, 3.0, 0.0)


class TestATenant:
    def admission(self, **limits: Any) -> Admission:
        return Admission(EngineConfig(tenants=Tenants({"small": Tenant(**limits)})))

    def test_has_so_many_requests_inside_and_no_more(self) -> None:
        admission = self.admission(max_concurrent=2)
        for _ in range(2):
            admission.check(a_request(tenant="small"), NOTHING, 0.0)
            admission.admitted(a_request(tenant="small"), 0.0)
        with pytest.raises(Overloaded, match="2 requests inside already") as refused:
            admission.check(a_request(tenant="small"), NOTHING, 0.0)
        assert refused.value.reason is Refusal.TENANT_LIMIT
        admission.check(a_request(tenant="other"), NOTHING, 0.0)
        admission.ended(a_request(tenant="small"), 40)
        admission.check(a_request(tenant="small"), NOTHING, 0.0)

    def test_that_has_more_than_its_share_inside_leaves_room_to_others(self) -> None:
        admission = Admission(EngineConfig(max_waiting=8, tenants=Tenants({"large": Tenant(weight=9.0)})))
        for tenant in ("flood",) * 5 + ("large",) * 5:
            admission.admitted(a_request(tenant=tenant), 0.0)
        for tenant in ("seldom", "large", "new"):
            admission.check(a_request(tenant=tenant), a_backlog(7), 0.0)
        admission.check(a_request(tenant="flood"), a_backlog(5), 0.0)
        with pytest.raises(Overloaded, match="6 requests are waiting"):
            admission.check(a_request(tenant="flood"), a_backlog(6), 0.0)

    def test_alone_has_all_the_room(self) -> None:
        admission = Admission(EngineConfig(max_waiting=8))
        for _ in range(7):
            admission.admitted(a_request(), 0.0)
        admission.check(a_request(), a_backlog(7), 0.0)

    def test_has_it_again_when_nobody_else_came_for_a_minute(self) -> None:
        admission = Admission(EngineConfig(max_waiting=8))
        admission.check(a_request(tenant="other"), NOTHING, 0.0)
        for now in (0.0, 1.0):
            admission.admitted(a_request(), now)
        with pytest.raises(Overloaded):
            admission.check(a_request(), a_backlog(7), 59.0)
        admission.check(a_request(), a_backlog(7), 61.0)

    def test_is_told_when_its_tokens_are_back(self) -> None:
        admission = self.admission(tokens_per_second=10.0)  # a burst of 100
        now = 50.0
        for _ in range(3):
            admission.check(a_request(tenant="small"), NOTHING, now)
            admission.admitted(a_request(tenant="small"), now)
        with pytest.raises(Overloaded, match="10 tokens a second") as refused:
            admission.check(a_request(tenant="small"), NOTHING, now)
        assert refused.value.retry_after == 2.0
        admission.check(a_request(tenant="small"), NOTHING, now + 2.0)

    def test_does_not_pay_for_what_was_not_computed(self) -> None:
        admission = self.admission(tokens_per_second=10.0)
        for _ in range(50):
            admission.check(a_request(tenant="small"), NOTHING, 0.0)
            admission.admitted(a_request(tenant="small"), 0.0)
            admission.ended(a_request(tenant="small"), computed=0)

    @examples(100)
    @given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200)), max_size=60), st.floats(1, 100))
    def test_gets_its_rate_and_one_request_more(self, asked: list[tuple[float, int]], rate: float) -> None:
        admission, now, tokens = self.admission(tokens_per_second=rate), 0.0, 0
        for pause, prompt in asked:
            now += pause
            request = request_at(now, prompt, 1, tenant="small")
            try:
                admission.check(request, NOTHING, now)
            except Overloaded as refused:
                admission.check(request, NOTHING, now + refused.retry_after + 1e-6)
                continue
            admission.admitted(request, now)
            tokens += prompt + 1
        assert tokens <= rate * (now + 10.0) + 201


class TestTheDrainRate:
    def test_is_unknown_until_somebody_has_waited_a_while(self) -> None:
        rate = DrainRate()
        rate.look(0.0, waiting=True)
        rate.began(100)
        rate.look(ENOUGH - 0.1, waiting=True)
        assert rate.tokens_per_second is None
        rate.look(ENOUGH + 0.1, waiting=True)
        assert rate.tokens_per_second == pytest.approx(100 / (ENOUGH + 0.1), rel=0.1)

    def test_does_not_count_time_in_which_nobody_waits(self) -> None:
        rate = DrainRate()
        for second in range(0, 1000, 100):
            rate.look(second, waiting=True)
            rate.began(50)
            rate.look(second + 1, waiting=False)
        assert rate.tokens_per_second == pytest.approx(50, rel=0.01)

    @examples(100)
    @given(st.integers(1, 100_000), st.floats(0.001, 1.0))
    def test_is_what_it_is_when_it_is_steady(self, tokens: int, step: float) -> None:
        rate = DrainRate()
        for number in range(2000):
            rate.look(number * step, waiting=True)
            rate.began(tokens)
        rate.look(2000 * step, waiting=True)
        assert rate.tokens_per_second == pytest.approx(tokens / step, rel=0.12)
