"""Which replica a request goes to, as a pure choice."""

from headrace_router.pick.busy import MOST_EARLY, STALE, Busy
from headrace_router.pick.choose import ALTERNATIVES, MOST_ABOVE_MEAN, SLACK, choose
from headrace_router.values import Asked, Door, Endpoint, Load, Ports, Reason
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0


def replicas(count: int) -> list[Endpoint]:
    return [Endpoint(f"uid-{n}", f"pod-{n}", f"127.0.0.{n + 1}", Ports(50051, 8000, 9090)) for n in range(count)]


def asked(affinity: bytes | None = None) -> Asked:
    return Asked(Door.GRPC, affinity, "somebody")


def with_inside(endpoints: list[Endpoint], inside: list[int], slots: int = 8) -> Busy:
    busy = Busy()
    for endpoint, requests in zip(endpoints, inside, strict=True):
        busy.heard(endpoint.uid, Load(requests, slots, NOW))
    return busy


def test_the_replica_where_nobody_waits_comes_first() -> None:
    endpoints = replicas(3)
    pick = choose(asked(), endpoints, with_inside(endpoints, [9, 3, 8]), NOW)
    assert [endpoint.uid for endpoint in pick.endpoints] == ["uid-1", "uid-2", "uid-0"]
    assert pick.reason is Reason.LEAST_WAIT


def test_a_larger_batch_waits_less_for_the_same_queue() -> None:
    endpoints, busy = replicas(2), Busy()
    busy.heard("uid-0", Load(inside=12, max_running=8, at=NOW))
    busy.heard("uid-1", Load(inside=70, max_running=64, at=NOW))
    assert choose(asked(), endpoints, busy, NOW).endpoints[0].uid == "uid-1"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.binary(min_size=1, max_size=16))
def test_a_prefix_never_buys_a_wait_nor_more_than_the_bound(inside: list[int], key: bytes) -> None:
    endpoints = replicas(len(inside))
    busy = with_inside(endpoints, inside)
    first = choose(asked(key), endpoints, busy, NOW).endpoints[0]
    waits = [busy.predicted_wait(endpoint.uid, NOW) for endpoint in endpoints]
    assert busy.predicted_wait(first.uid, NOW) == min(waits)
    mean = (sum(inside) + 1) / len(inside)
    least = min(inside)
    assert busy.inside(first.uid, NOW) + 1 <= max(MOST_ABOVE_MEAN * mean + 1 + SLACK, least + 1)


@given(st.binary(min_size=1, max_size=16), st.integers(2, 8), st.data())
def test_a_prefix_moves_only_when_its_own_replica_leaves(key: bytes, count: int, data: st.DataObject) -> None:
    endpoints, busy = replicas(count), Busy()
    home = choose(asked(key), endpoints, busy, NOW).endpoints[0]
    gone = data.draw(st.sampled_from(endpoints))
    left = [endpoint for endpoint in endpoints if endpoint is not gone]
    after = choose(asked(key), left, busy, NOW).endpoints[0]
    assert after is home or gone is home


@given(st.binary(min_size=1, max_size=16), st.integers(1, 8))
def test_no_replica_is_named_twice(key: bytes, count: int) -> None:
    named = choose(asked(key), replicas(count), Busy(), NOW).endpoints
    assert len({endpoint.uid for endpoint in named}) == len(named) == min(count, ALTERNATIVES)


def test_what_was_sent_counts_before_any_report_has_it() -> None:
    endpoints, busy = replicas(2), with_inside(replicas(2), [0, 0], slots=2)
    for turn in range(4):
        first = choose(asked(), endpoints, busy, NOW).endpoints[0]
        busy.sent(f"request-{turn}", first.uid, NOW)
    assert [busy.inside(endpoint.uid, NOW) for endpoint in endpoints] == [2, 2]


def test_a_report_adds_what_others_sent_and_grows_stale() -> None:
    busy = Busy()
    busy.sent("mine", "uid-0", NOW)
    busy.heard("uid-0", Load(inside=5, max_running=8, at=NOW))  # mine among them
    assert busy.inside("uid-0", NOW) == 5
    busy.finished("mine", NOW + 1)
    assert busy.inside("uid-0", NOW + 1) == 4
    assert busy.inside("uid-0", NOW + STALE + 1) == 0


def test_a_request_that_ended_before_it_was_sent_counts_nowhere() -> None:
    busy = Busy()
    assert busy.finished("gone", NOW) is None
    busy.sent("gone", "uid-0", NOW)
    assert busy.inside("uid-0", NOW) == 0
    for number in range(2 * MOST_EARLY):
        busy.finished(f"refused-{number}", NOW)
    assert len(busy.early) == MOST_EARLY


def test_a_request_counts_once_whatever_is_said_of_it() -> None:
    busy = Busy()
    busy.sent("one", "uid-0", NOW)
    busy.sent("one", "uid-1", NOW)
    assert (busy.inside("uid-0", NOW), busy.inside("uid-1", NOW)) == (0, 1)
    assert busy.finished("one", NOW) == "uid-1"
    assert busy.finished("one", NOW) is None
    assert busy.inside("uid-1", NOW) == 0
