from typing import Any

import pytest
from headrace_operator.decide.startup import KEPT, LATE, Ledger, Step
from headrace_operator.decide.values import Observed, PodPhase, PodState, Startup
from observations import NOW, pod

STEPS = Startup(scheduled_at=NOW + 1, pulled_at=NOW + 4, weights_at=NOW + 14, warmed_at=NOW + 34)


def started(number: int = 0, *, ready: float = 36.0, **changes: Any) -> PodState:
    return pod(number, **{"created_at": NOW, "ready_at": NOW + ready, "startup": STEPS, **changes})


def test_each_step_and_the_whole_are_timed_once() -> None:
    ledger, new = Ledger().seen(Observed((started(),)))
    assert dict(new[0].seconds) == {
        Step.SCHEDULED: 1, Step.PULLED: 3, Step.WEIGHTS: 10, Step.WARMED: 20, Step.READY: 2, Step.WHOLE: 36,
    }  # fmt: skip
    assert ledger.seen(Observed((started(),))) == (ledger, ())


@pytest.mark.parametrize(
    "pod_",
    [
        pytest.param(started(phase=PodPhase.WARMING_UP, ready_at=None), id="it goes on"),
        pytest.param(started(startup=Startup(NOW + 1, NOW + 4, NOW + 14, None)), id="a server that does not say"),
        pytest.param(started(restarts=1), id="its container was restarted"),
        pytest.param(started(ready=34 + LATE + 1), id="it lost readiness and regained it"),
    ],
)
def test_what_was_not_seen_whole_is_not_counted(pod_: PodState) -> None:
    assert Ledger().seen(Observed((pod_,))) == (Ledger(), ())


def test_times_of_different_precision_give_no_negative_step() -> None:
    early = Startup(NOW + 1, NOW + 4, NOW + 3.9, NOW + 5)
    _, (start,) = Ledger().seen(Observed((started(ready=4.0, startup=early),)))
    assert dict(start.seconds)[Step.WEIGHTS] == 0
    assert dict(start.seconds)[Step.READY] == 0


def test_quantiles_by_nearest_rank() -> None:
    ledger = Ledger()
    assert ledger.quantile(Step.WHOLE, 0.95) is None
    assert ledger.as_status() == []
    ledger, _ = ledger.seen(Observed(tuple(started(n, ready=36.0 + n) for n in range(10))))
    assert [ledger.quantile(Step.WHOLE, share) for share in (0.5, 0.95, 1.0)] == [40, 45, 45]
    assert ledger.as_status()[2] == {"phase": "weights", "p50Seconds": "10.0", "p95Seconds": "10.0"}


def test_the_newest_starts_are_kept_and_a_pod_that_lives_is_never_counted_again() -> None:
    many = tuple(started(n) for n in range(KEPT + 10))
    ledger, new = Ledger().seen(Observed(many))
    assert len(new) == KEPT + 10
    assert ledger.seen(Observed(many))[1] == ()
    ledger, _ = ledger.seen(Observed(()))
    assert len(ledger.starts) == KEPT
