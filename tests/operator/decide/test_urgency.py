from typing import Any

import pytest
from headrace_operator.decide.urgency import is_urgent
from headrace_operator.service import Mode
from observations import decided, observed, pod, sample, scaling, signals


def looked(policy: dict[str, Any], *samples: Any) -> bool:
    pods = observed(0, *(pod(n, sample=each) for n, each in enumerate(samples)))
    decision = decided(len(samples), signals(len(samples), load=1.0), policy=scaling(**policy))
    return is_urgent(pods, decision)


@pytest.mark.parametrize(
    ("samples", "urgent"),
    [
        pytest.param([], False, id="no pod"),
        pytest.param([sample()], False, id="nobody asks"),
        pytest.param([sample(running=50)], False, id="room for more: 50 of 64"),
        pytest.param([sample(running=52)], True, id="nearly full: 52 of 64"),
        pytest.param([sample(), sample(running=3, waiting=1)], True, id="a queue on one pod"),
        pytest.param([None], False, id="a pod that did not answer says nothing"),
        pytest.param([sample(max_running=0)], False, id="a server that does not say its limit"),
    ],
)
def test_what_makes_the_next_look_urgent(samples: list[Any], urgent: bool) -> None:
    assert looked({}, *samples) is urgent


@pytest.mark.parametrize(
    ("policy", "urgent"),
    [
        pytest.param({"mode": Mode.SHADOW}, True, id="Shadow decides on the load"),
        pytest.param({"mode": Mode.PAUSED}, False, id="Paused does not"),
        pytest.param({"mode": Mode.EXTERNAL}, False, id="External does not"),
        pytest.param({"max_replicas": 1}, False, id="no more could be ordered"),
    ],
)
def test_a_look_that_could_order_nothing_is_not_urgent(policy: dict[str, Any], urgent: bool) -> None:
    assert looked(policy, sample(waiting=9)) is urgent
