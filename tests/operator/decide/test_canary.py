"""The gates of a canary: the first that fails decides, and promotion takes all of the evidence."""

import math
from typing import Any

import pytest
from headrace_operator.decide.canary import Gates, judge
from headrace_operator.decide.evidence import Evidence, Score, Tally, key
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.values import PodPhase, PodState
from headrace_operator.service import Canary, GoldenPrompt
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import NOW, pod

TARGET = 0.5
GOLDEN = GoldenPrompt("In the", " beginning")
POLICY = Canary(min_samples=50, min_duration=60.0, deadline=600.0)
ASKING = Canary(min_samples=50, min_duration=60.0, deadline=600.0, golden=(GOLDEN,))


def tally(requests: float = 100, *, failed: float = 0, wait: float = 0.1, speed: float = 20.0) -> Tally:
    """`wait`: p95 seconds; `speed`: tokens/s of a running request."""
    waits = ((wait / 0.95, requests), (math.inf, requests))
    return Tally(requests, failed, token_gaps=1000.0, token_gap_seconds=1000.0 / speed, queue_waits=waits)


def judged(canary: Tally, stable: Tally | None = None, *, policy: Canary = POLICY, **changes: Any) -> Verdict:
    usual: dict[str, Any] = {"pods": [pod(9)], "scores": (), "ready_for": 100.0, "age": 100.0} | changes
    since = None if usual["ready_for"] is None else NOW - usual["ready_for"]
    evidence = Evidence(stable or tally(), canary, usual["scores"], since)
    return judge(Gates(policy, TARGET, usual["pods"], evidence, NOW - usual["age"], NOW)).verdict


def score(loss: float) -> tuple[Score, ...]:
    return (Score(key(GOLDEN), -1.0, -1.0 - loss),)


@pytest.mark.parametrize(
    ("canary", "verdict"),
    [
        pytest.param(tally(), Verdict.ALL_GATES_PASSED, id="the same as the old revision"),
        pytest.param(tally(49, failed=49), Verdict.EVIDENCE_MISSING, id="too few requests to believe anything"),
        pytest.param(tally(failed=1), Verdict.ALL_GATES_PASSED, id="as many errors as are allowed"),
        pytest.param(tally(failed=2), Verdict.ERROR_RATE_WORSE, id="more errors"),
        pytest.param(tally(wait=0.5), Verdict.ALL_GATES_PASSED, id="slower to start, and within the promise"),
        pytest.param(tally(wait=0.51), Verdict.QUEUE_WAIT_WORSE, id="longer waits than promised"),
        pytest.param(tally(speed=16.1), Verdict.ALL_GATES_PASSED, id="a little slower"),
        pytest.param(tally(speed=15.9), Verdict.TOKENS_PER_SECOND_WORSE, id="too slow"),
        pytest.param(tally(failed=9, wait=9, speed=1), Verdict.ERROR_RATE_WORSE, id="the first gate that fails speaks"),
    ],
)
def test_what_is_measured(canary: Tally, verdict: Verdict) -> None:
    assert judged(canary) is verdict


def test_a_wait_is_compared_with_the_old_one_where_that_is_above_the_promise() -> None:
    assert judged(tally(wait=2.9), tally(wait=2.0)) is Verdict.ALL_GATES_PASSED
    assert judged(tally(wait=3.1), tally(wait=2.0)) is Verdict.QUEUE_WAIT_WORSE


def test_errors_are_compared_with_those_of_the_old_revision() -> None:
    assert judged(tally(failed=11), tally(failed=10)) is Verdict.ALL_GATES_PASSED


@pytest.mark.parametrize(
    ("phase", "verdict"),
    [
        pytest.param(PodPhase.CRASH_LOOPING, Verdict.CANARY_FAILED, id="it crashes"),
        pytest.param(PodPhase.MODEL_REFUSED, Verdict.CANARY_FAILED, id="it refuses the model"),
        pytest.param(PodPhase.DEVICE_MISMATCH, Verdict.CANARY_FAILED, id="it computes elsewhere"),
        pytest.param(PodPhase.IMAGE_PULL_FAILED, Verdict.EVIDENCE_MISSING, id="a registry may come back"),
        pytest.param(PodPhase.UNSCHEDULABLE, Verdict.EVIDENCE_MISSING, id="a GPU may become free"),
        pytest.param(PodPhase.LOADING, Verdict.EVIDENCE_MISSING, id="it loads"),
    ],
)
def test_what_the_canary_pods_do_counts_at_once(phase: PodPhase, verdict: Verdict) -> None:
    assert judged(tally(0), pods=[pod(9, phase, message="words")], ready_for=None) is verdict


@pytest.mark.parametrize(
    ("scores", "canary", "verdict"),
    [
        pytest.param(score(0.04), tally(), Verdict.ALL_GATES_PASSED, id="about as good"),
        pytest.param(score(-1.0), tally(), Verdict.ALL_GATES_PASSED, id="better"),
        pytest.param(score(0.06), tally(0), Verdict.QUALITY_WORSE, id="worse; more requests would not change it"),
        pytest.param((), tally(), Verdict.EVIDENCE_MISSING, id="not answered yet, which is neither good nor bad"),
    ],
)
def test_golden_answers(scores: tuple[Score, ...], canary: Tally, verdict: Verdict) -> None:
    assert judged(canary, policy=ASKING, scores=scores) is verdict


def test_asking_for_scores_is_no_evidence_of_users() -> None:
    assert judged(tally(50), policy=ASKING, scores=score(0.0)) is Verdict.EVIDENCE_MISSING
    assert judged(tally(51), policy=ASKING, scores=score(0.0)) is Verdict.ALL_GATES_PASSED


@pytest.mark.parametrize(
    "missing",
    [
        pytest.param({"stable": tally(49)}, id="too few requests of the old revision"),
        pytest.param({"ready_for": 59.0}, id="too short"),
        pytest.param({"ready_for": None}, id="not ready"),
        pytest.param({"policy": ASKING}, id="no golden score"),
        pytest.param({"canary": Tally(100, 0, 0, 0, tally().queue_waits)}, id="tokens on one side only"),
    ],
)
def test_missing_evidence_is_waited_for_until_the_deadline(missing: dict[str, Any]) -> None:
    given = {"canary": tally(), "stable": tally()} | missing
    canary, stable = given.pop("canary"), given.pop("stable")
    assert judged(canary, stable, age=599.0, **given) is Verdict.EVIDENCE_MISSING
    assert judged(canary, stable, age=600.0, **given) is Verdict.DEADLINE_PASSED


def test_enough_evidence_at_the_deadline_is_enough() -> None:
    assert judged(tally(), age=1e6) is Verdict.ALL_GATES_PASSED


def test_the_message_holds_the_numbers_that_were_compared() -> None:
    evidence = Evidence(tally(), tally(wait=2.0), (), NOW - 100)
    told = judge(Gates(POLICY, TARGET, [pod(9)], evidence, NOW - 100, NOW))
    assert told.message == "p95 wait 2000 ms against 100 ms, 500 ms are allowed"


counts = st.integers(0, 200)
sides = st.builds(
    tally, counts.map(float), wait=st.floats(0.01, 10), speed=st.floats(0.1, 100), failed=st.integers(0, 3).map(float)
)
phases = st.lists(st.sampled_from(list(PodPhase)), min_size=1, max_size=3)


@settings(deadline=None)
@given(sides, sides, phases, st.none() | st.floats(0, 1000), st.booleans())
def test_promotion_takes_evidence(
    canary: Tally, stable: Tally, drawn: list[PodPhase], ready_for: float | None, has_score: bool
) -> None:
    pods: list[PodState] = [pod(n, phase) for n, phase in enumerate(drawn)]
    scores = score(0.0) if has_score else ()
    verdict = judged(canary, stable, policy=ASKING, pods=pods, scores=scores, ready_for=ready_for)
    if verdict is Verdict.ALL_GATES_PASSED:
        assert min(canary.requests, stable.requests) >= ASKING.min_samples
        assert ready_for is not None
        assert ready_for >= ASKING.min_duration - 1e-6
        assert has_score
        assert not {PodPhase.CRASH_LOOPING, PodPhase.MODEL_REFUSED, PodPhase.DEVICE_MISMATCH} & set(drawn)
