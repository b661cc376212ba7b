"""The bounds of this moment: those of the manifest, or of the schedules that are on.

A schedule is on from each fire of its `start` until the next fire of its `end`. Cron times follow the wall clock of the
schedule's time zone as Debian's cron does: what falls into the hour that a spring leaves out fires when it ends, and
what falls into the hour that an autumn has twice fires in the first of both.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from headrace_operator.service import Scaling, Schedule

MINUTE = 60.0  # seconds; cron knows nothing finer


@dataclass(frozen=True, slots=True)
class Bounds:
    min_replicas: int
    max_replicas: int
    schedules: tuple[str, ...] = ()  # names of those that are on


def bounds(scaling: Scaling, now: float) -> Bounds:
    """Where schedules overlap, the highest of both bounds."""
    return _bounds(scaling, tuple([schedule for schedule in scaling.schedules if is_on(schedule, now)]))


@lru_cache(maxsize=4096)  # of every deployment: they change when a schedule begins or ends
def _bounds(scaling: Scaling, on: tuple[Schedule, ...]) -> Bounds:
    if not on:
        return Bounds(scaling.min_replicas, scaling.max_replicas)
    return Bounds(
        max(scaling.min_replicas if one.min_replicas is None else one.min_replicas for one in on),
        max(scaling.max_replicas if one.max_replicas is None else one.max_replicas for one in on),
        tuple(one.name for one in on),
    )


def is_on(schedule: Schedule, now: float) -> bool:
    return _is_on(schedule, int(now // MINUTE))


@lru_cache(maxsize=4096)  # every tick of the same minute asks the same
def _is_on(schedule: Schedule, minute: int) -> bool:
    zone = ZoneInfo(schedule.time_zone)
    started, ended = (_last_fire(cron, minute, zone) for cron in (schedule.start, schedule.end))
    return started > ended


def _last_fire(cron: str, minute: int, zone: ZoneInfo) -> float:
    """Epoch seconds of the newest fire that is not later than this minute."""
    now = minute * MINUTE
    # Looking back loses fires in an hour that comes twice; counting forwards from what it finds does not.
    back = next(CronSim(cron, datetime.fromtimestamp(now, zone) + timedelta(seconds=1), reverse=True))
    fires = (fire.timestamp() for fire in CronSim(cron, back))
    return max((back.timestamp(), *takewhile(lambda fire: fire <= now, fires)))
