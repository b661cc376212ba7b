"""Which revision a request goes to, and which requests are copied: shares that hold over any stretch of requests."""

from collections import Counter

import pytest
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import Picker, Terms
from headrace_router.values import Asked, Door, Endpoint, Found, Guidance, Pick, Ports
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0


def replica(uid: str, revision: str) -> Endpoint:
    return Endpoint(uid, uid, "127.0.0.1", Ports(1, 2, 3), revision)


OLD = (replica("old-0", "old"), replica("old-1", "old"), replica("old-2", "old"))
NEW = (replica("new-0", "new"),)
MIRROR = (replica("mirror-0", "next"),)


def picker(found: Found, guidance: Guidance) -> Picker:
    one = Picker(Terms(Limits(10, 60.0), start_seconds=90.0))
    one.guided(guidance)
    one.there_are(found)
    return one


def picked(one: Picker, requests: int, may_wait: bool = True) -> list[Pick]:
    """One after the other, each over before the next."""
    picks = []
    for n in range(requests):
        pick = one.ask(f"r{n}", Asked(Door.GRPC, None, "somebody", may_wait), NOW)
        assert isinstance(pick, Pick)
        one.finished(f"r{n}", True, NOW)
        picks.append(pick)
    return picks


def revisions(picks: list[Pick]) -> Counter[str]:
    return Counter(pick.endpoints[0].revision for pick in picks)


@pytest.mark.parametrize(
    ("found", "shares", "expected"),
    [
        pytest.param((*OLD, *NEW), (("new", 0.05),), {"old": 95, "new": 5}, id="a small share"),
        pytest.param((*OLD, *NEW), (("new", 0.0),), {"old": 100}, id="none"),
        pytest.param(NEW, (("new", 0.0),), {"new": 100}, id="none, but nobody else is there"),
        pytest.param((*OLD, *NEW), (("new", 0.3), ("old", 0.3)), {"old": 50, "new": 50}, id="shares of what is there"),
        pytest.param(OLD, (("new", 0.4),), {"old": 100}, id="it has no ready pod"),
    ],
)
def test_shares(found: tuple[Endpoint, ...], shares: tuple[tuple[str, float], ...], expected: dict[str, int]) -> None:
    assert revisions(picked(picker(Found(found), Guidance(shares=shares)), 100)) == expected


@given(st.integers(1, 99), st.integers(1, 300))
def test_no_stretch_of_requests_is_more_than_one_off_its_share(percent: int, requests: int) -> None:
    one = picker(Found((*OLD, *NEW)), Guidance(shares=(("new", percent / 100),)))
    assert abs(revisions(picked(one, requests))["new"] - requests * percent / 100) <= 1


def test_what_one_revision_does_not_answer_may_be_tried_on_another() -> None:
    pick = picked(picker(Found((*OLD, *NEW)), Guidance(shares=(("new", 1.0),))), 1)[0]
    assert [endpoint.revision for endpoint in pick.endpoints] == ["new", "old", "old"]


@given(st.integers(0, 100), st.integers(1, 200))
def test_copies_are_as_many_as_asked_for(percent: int, requests: int) -> None:
    one = picker(Found(OLD, MIRROR), Guidance(mirror_share=percent / 100))
    copied = sum(pick.is_mirrored for pick in picked(one, requests))
    assert abs(copied - requests * percent / 100) <= 1
    assert copied == requests or percent < 100


def test_without_a_mirror_no_copy_is_owed() -> None:
    one = picker(Found(OLD), Guidance(mirror_share=1.0))
    assert not any(pick.is_mirrored for pick in picked(one, 10))
    one.there_are(Found(OLD, MIRROR))
    assert all(pick.is_mirrored for pick in picked(one, 10))


def test_a_health_check_is_not_copied() -> None:
    one = picker(Found(OLD, MIRROR), Guidance(mirror_share=1.0))
    assert not any(pick.is_mirrored for pick in picked(one, 3, may_wait=False))


def test_who_is_refused_hears_how_long_a_start_takes_here() -> None:
    one = Picker(Terms(Limits(0, 60.0), start_seconds=90.0))
    assert getattr(one.ask("r", Asked(Door.GRPC, None, "x"), NOW), "retry_after", None) == 90.0
    one.guided(Guidance(start_seconds=42.5))
    assert getattr(one.ask("r", Asked(Door.GRPC, None, "x"), NOW), "retry_after", None) == 42.5
