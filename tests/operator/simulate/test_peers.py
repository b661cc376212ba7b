"""Other autoscalers behave as they are published."""

import pytest
from headrace_operator.decide.values import PodSample
from headrace_operator.simulate.engine import USUAL
from headrace_operator.simulate.peers import aibrix, hpa, wva_v1
from headrace_operator.simulate.peers.dynamo import Dynamo
from headrace_operator.simulate.peers.hpa import Behavior, Hpa
from headrace_operator.simulate.peers.keda import Keda
from headrace_operator.simulate.peers.kpa import Kpa
from headrace_operator.simulate.peers.oracle import Oracle
from headrace_operator.simulate.peers.queue_wait import QueueWait
from headrace_operator.simulate.peers.ray import Ray
from headrace_operator.simulate.peers.wva_v2 import WvaV2
from headrace_operator.simulate.policy import Bounds, Look, Pod, Policy
from headrace_operator.simulate.traces import Request

BOUNDS = Bounds(1, 32)


def pod(
    ordinal: int, *, running: int = 0, waiting: int = 0, kv: float = 0.0, received: int = 0, at: float = 0.0
) -> Pod:
    sample = PodSample(
        at=at, waiting=waiting, running=running, max_running=64, oldest_waiting=0.0, received=received, finished=10,
        finished_tokens=1000, tokens=0.0,
    )  # fmt: skip
    return Pod(ordinal, 0.0, 0.0, None, sample, kv)


def silent(ordinal: int) -> Pod:
    return Pod(ordinal, 0.0, 0.0, None, None)


def starting(ordinal: int) -> Pod:
    return Pod(ordinal, 0.0, None, None, None)


def look(now: float, *pods: Pod, desired: int | None = None) -> Look:
    return Look(now, len(pods) if desired is None else desired, pods)


def followed(policy: Policy, moments: list[tuple[float, int]], desired: int) -> list[int]:
    """`moments`: (when, requests running on each of what is wanted)."""
    told = []
    for now, running in moments:
        desired = policy.replicas(look(now, *(pod(n, running=running) for n in range(desired))))
        told.append(desired)
    return told


class TestHpa:
    @pytest.mark.parametrize(
        ("pods", "wanted"),
        [
            pytest.param((pod(0, waiting=10), pod(1, waiting=10)), 4, id="twice the target"),
            pytest.param((pod(0, waiting=5), pod(1, waiting=5)), 2, id="on target"),
            pytest.param(
                (pod(0, waiting=5), pod(1, waiting=5), pod(2, waiting=6)), 3, id="within the tolerance of 10 %"
            ),
            pytest.param((pod(0, waiting=10), silent(1)), 2, id="missing is empty when more are wanted"),
            pytest.param((pod(0, waiting=1), silent(1)), 2, id="missing is full when fewer are wanted"),
            pytest.param((pod(0, waiting=15), starting(1)), 3, id="unready is empty when more are wanted"),
            pytest.param((silent(0), silent(1)), 2, id="nobody answers"),
        ],
    )
    def test_the_ratio_and_who_is_missing(self, pods: tuple[Pod, ...], wanted: int) -> None:
        assert hpa.calculated(look(0.0, *pods), hpa.waiting, 5.0) == wanted

    def test_up_at_most_double_or_four_in_15_s_and_down_after_300_s(self) -> None:
        behavior = Behavior(BOUNDS)
        assert behavior.limited(30, 1, 0.0) == 5
        assert behavior.limited(30, 5, 15.0) == 10
        assert behavior.limited(2, 10, 30.0) == 10
        assert behavior.limited(2, 10, 314.0) == 10
        assert behavior.limited(2, 10, 331.0) == 2

    def test_queue_wait_is_the_p95_of_the_last_minute(self) -> None:
        metric = QueueWait()
        early = PodSample(0.0, 0, 0, 1, 0.0, 0, 0, 0, 0, queue_waits=((1.0, 100.0), (2.0, 100.0)))
        late = PodSample(30.0, 0, 0, 1, 0.0, 0, 0, 0, 0, queue_waits=((1.0, 100.0), (2.0, 200.0)))
        metric(Pod(0, 0.0, 0.0, None, early))
        assert metric(Pod(0, 0.0, 0.0, None, late)) == pytest.approx(1.95)


def test_keda_divides_the_sum_by_the_threshold() -> None:
    assert Keda(BOUNDS).replicas(look(0.0, pod(0, waiting=12), pod(1, waiting=3))) == 3
    assert Keda(BOUNDS).replicas(look(0.0, silent(0), silent(1))) == 2


class TestKpa:
    def test_a_burst_panics_and_panic_never_goes_down(self) -> None:
        policy = Kpa(10.0, BOUNDS)  # a target of 7 requests
        calm = [(float(now), 7) for now in range(0, 120)]
        assert followed(policy, calm, 1)[-1] == 1
        burst = policy.replicas(look(120.0, pod(0, running=200)))
        assert burst > 4
        after = [policy.replicas(look(121.0 + n, pod(0, running=7), desired=burst)) for n in range(40)]
        assert min(after) == burst
        later = [policy.replicas(look(161.0 + n, pod(0, running=7), desired=burst)) for n in range(90)]
        assert later[-1] == 1

    def test_it_halves_at_most_in_one_decision(self) -> None:
        policy = Kpa(10.0, BOUNDS)
        policy.decided_at = 0.0  # not after a restart, which panics at what runs
        assert policy.replicas(look(2.0, *(pod(n) for n in range(16)))) == 8


def test_ray_waits_30_s_up_and_600_s_down_without_interruption() -> None:
    up = followed(Ray(BOUNDS), [(10.0 * n, 6) for n in range(5)], 1)
    assert up == [1, 1, 1, 3, 3]
    policy = Ray(BOUNDS)
    down = [policy.replicas(look(10.0 * n, pod(0, running=2), desired=3)) for n in range(62)]
    assert down[59] == 3
    assert down[60] == 1


def test_wva_v1_moves_by_one_and_not_while_a_replica_starts() -> None:
    full = [pod(0, waiting=9), pod(1, waiting=9)]
    assert wva_v1.analyzed(look(0.0, *full)) == 3
    assert wva_v1.analyzed(look(0.0, *full, starting(2))) == 3
    assert wva_v1.analyzed(look(0.0, pod(0), pod(1), pod(2))) == 2


def test_wva_v2_credits_what_starts() -> None:
    policy = WvaV2(1000, BOUNDS)
    full = [pod(0, kv=0.9), pod(1, kv=0.9)]
    assert policy.analyzed(look(0.0, *full)) == 3  # 1800 tokens / 0.85 against 2 x 800
    assert policy.analyzed(look(0.0, *full, starting(2))) == 3


def test_dynamo_moves_by_one_and_freezes_while_it_scales() -> None:
    policy = Dynamo(USUAL, Request(0.0, 1000, 100), BOUNDS)
    full = [pod(0, waiting=20), pod(1, waiting=20)]
    assert policy.replicas(look(0.0, *full)) == 3
    assert policy.replicas(look(5.0, *full, starting(2))) == 3
    assert policy.replicas(look(10.0, pod(0), pod(1), pod(2))) == 2


@pytest.mark.parametrize(("ratio", "wanted"), [(1.05, 10), (1.5, 15), (4.0, 20), (0.95, 10), (0.7, 7), (0.1, 5)])
def test_aibrix_stays_within_its_band_and_moves_at_most_by_half_or_double(ratio: float, wanted: int) -> None:
    assert aibrix.by_ratio(ratio, 10) == wanted


def test_the_oracle_has_its_replicas_before_the_load() -> None:
    requests = [Request(n / 50, 1000, 100) for n in range(500, 5000)]
    policy = Oracle(USUAL, [Request(0.0, 1, 1), *[r._replace(at=r.at + 300) for r in requests]], 90.0, 1.0, BOUNDS)
    assert policy.replicas(look(0.0, pod(0))) == 1
    assert policy.replicas(look(220.0, pod(0))) > 5


def test_all_keep_their_bounds() -> None:
    flood = [pod(n, running=64, waiting=5000, kv=1.0) for n in range(2)]
    for policy in (Hpa(hpa.waiting, 5.0, BOUNDS), Keda(BOUNDS), Kpa(10.0, BOUNDS), Ray(BOUNDS), WvaV2(1000, BOUNDS)):
        told = [policy.replicas(look(now, *flood)) for now in (0.0, 30.0, 60.0, 90.0)]
        assert max(told) <= 32
