"""Which bounds hold when, against the wall clock of the schedule's time zone."""

from bisect import bisect_right
from datetime import datetime
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from headrace_operator.decide.schedules import Bounds, bounds, is_on
from headrace_operator.service import Schedule
from hypothesis import given
from hypothesis import strategies as st
from observations import scaling

OFFICE = Schedule("office", "0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", min_replicas=8)
LAUNCH = Schedule("launch", "30 17 24 12 *", "0 2 25 12 *", "UTC", min_replicas=4, max_replicas=40)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param("2026-12-21T07:59:59", Bounds(2, 16), id="a second before"),
        pytest.param("2026-12-21T08:00:00", Bounds(8, 16, ("office",)), id="the minute it starts"),
        pytest.param("2026-12-21T17:59:59", Bounds(8, 16, ("office",)), id="until the last second"),
        pytest.param("2026-12-21T18:00:00", Bounds(2, 16), id="the minute it ends"),
        pytest.param("2026-12-20T12:00:00", Bounds(2, 16), id="on a Sunday"),
        pytest.param("2026-07-21T08:00:00", Bounds(8, 16, ("office",)), id="in summer, by the same wall clock"),
    ],
)
def test_bounds_follow_the_wall_clock(moment: str, expected: Bounds) -> None:
    policy = scaling(min_replicas=2, max_replicas=16, schedules=(OFFICE,))
    assert bounds(policy, at(moment, "Europe/Berlin")) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param("2026-12-24T16:50:00", Bounds(8, 16, ("office",)), id="one of them"),
        pytest.param("2026-12-24T17:00:00", Bounds(2, 16), id="between both"),
        pytest.param("2026-12-24T23:00:00", Bounds(4, 40, ("launch",)), id="the other"),
    ],
)
def test_one_schedule_after_the_other(moment: str, expected: Bounds) -> None:
    policy = scaling(min_replicas=2, max_replicas=16, schedules=(OFFICE, LAUNCH))
    assert bounds(policy, at(moment)) == expected


def test_where_schedules_overlap_the_highest_of_both_bounds_holds() -> None:
    always = Schedule("always", "0 0 * * *", "1 0 1 1 *", "UTC", max_replicas=20)
    small = Schedule("small", "0 0 * * *", "2 0 1 1 *", "UTC", min_replicas=1, max_replicas=5)
    policy = scaling(min_replicas=2, max_replicas=16, schedules=(OFFICE, always, small))
    assert bounds(policy, at("2026-12-24T12:00:00")) == Bounds(8, 20, ("office", "always", "small"))
    assert bounds(policy, at("2026-12-20T12:00:00")) == Bounds(2, 20, ("always", "small"))


def test_a_schedule_may_ask_for_fewer() -> None:
    night = Schedule("night", "0 22 * * *", "0 6 * * *", "UTC", min_replicas=1, max_replicas=3)
    policy = scaling(min_replicas=2, max_replicas=16, schedules=(night,))
    assert bounds(policy, at("2026-12-20T23:00:00")) == Bounds(1, 3, ("night",))


# Clocks change in the night: by an hour, in Lord Howe by half of one.
NIGHTS = [
    pytest.param("Europe/Berlin", "2026-03-29", id="an hour is left out"),
    pytest.param("Europe/Berlin", "2026-10-25", id="an hour comes twice"),
    pytest.param("America/New_York", "2026-11-01", id="an hour comes twice elsewhere"),
    pytest.param("Australia/Lord_Howe", "2026-10-04", id="half an hour is left out"),
    pytest.param("Australia/Lord_Howe", "2026-04-05", id="half an hour comes twice"),
    pytest.param("Asia/Kolkata", "2026-10-25", id="nothing happens"),
]
CRONS = ("0 8 * * 1-5", "30 2 * * *", "0 2 * * *", "45 1 * * 0", "0 3 * * *", "15 * * * *", "*/20 * * * *", "0 0 1 * *")
DAY = 86400.0


def counted(cron: str, zone: str, until: float) -> list[float]:
    """Its fires of the 40 days before `until`, counted forwards."""
    found, clock = [], CronSim(cron, datetime.fromtimestamp(until - 40 * DAY, ZoneInfo(zone)))
    while (fire := next(clock).timestamp()) < until:
        found.append(fire)
    return found


@pytest.mark.parametrize(("zone", "day"), NIGHTS)
def test_looking_back_agrees_with_counting_forwards(zone: str, day: str) -> None:
    first = at(day, zone)
    fires = {cron: counted(cron, zone, first + DAY) for cron in CRONS}
    for now in (first + 600.0 * index for index in range(6 * 6)):
        last = {cron: times[bisect_right(times, now) - 1] for cron, times in fires.items()}
        for start, end in product(CRONS, repeat=2):
            assert is_on(Schedule("one", start, end, zone), now) is (last[start] > last[end])


@given(st.integers(1, 20), st.integers(0, 20), st.floats(0, 366))
def test_outside_all_schedules_nothing_changes(least: int, more: int, day: float) -> None:
    now = at("2026-01-01T00:00:00") + day * DAY
    policy = scaling(min_replicas=least, max_replicas=least + more, schedules=(OFFICE, LAUNCH))
    if not any(is_on(schedule, now) for schedule in policy.schedules):
        assert bounds(policy, now) == Bounds(least, least + more)
