"""What the decision remembers between two ticks: recent samples by pod, recommendations, what was learned.

A frozen value: each tick makes a new one. What a restart must not forget goes to status (`remembered`) and comes back
(`restored`); the scale-down window starts with the replicas decided last, so that a restart never scales down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headrace_operator.decide.bursts import QUIET, Bursts
from headrace_operator.decide.forecast import UNKNOWN, Trend
from headrace_operator.decide.rates import Series
from headrace_operator.decide.turned_away import NOBODY, TurnedAway
from headrace_operator.decide.values import Observed, PodPhase, PodState

WINDOW = 15.0  # seconds of samples that a decision looks at: several scrapes, and short against a cold start
STARTUPS_KEPT = 20
LASTING = 30.0  # seconds after which a much higher number was no blink: the scale-down window holds it from then on


class Decided(Protocol):
    """The numbers of a decision."""

    @property
    def replicas(self) -> int: ...
    @property
    def current(self) -> int: ...
    @property
    def asked(self) -> int: ...
    @property
    def recommended(self) -> int: ...


@dataclass(frozen=True, slots=True)
class History:
    samples: Mapping[str, Series] = field(default_factory=dict)  # by pod UID, oldest first
    restarted_at: float = -math.inf  # when a counter was last seen to fall: a new process counts from zero
    desired: int | None = None  # replicas decided last
    lowered_at: float | None = None  # when a decision was lower than the one before
    # (epoch seconds, replicas), oldest first; only those that no later one reaches, so the first is the highest
    recommendations: tuple[tuple[float, int], ...] = ()
    asked_lately: tuple[tuple[float, int], ...] = ()  # likewise as asked; only those below each later one
    bursts: Bursts = QUIET
    trend: Trend = UNKNOWN  # of the arrivals
    turned_away: TurnedAway = NOBODY  # who was refused, and who came again
    silent_since: float | None = None  # since when no ready pod has answered
    busy_at: float | None = None  # when a request was seen last, or somebody was not heard who may have had one
    has_served: bool = False  # a replica was Ready once
    capacity: float | None = None  # tokens/s that one warm replica carries, learned when saturated
    work_per_request: float | None = None  # tokens, prompt + generated, of finished requests
    ready_uids: frozenset[str] = frozenset()
    ready_changed_at: float = 0.0  # older waits say nothing about today's supply
    uids: frozenset[str] = frozenset()  # of all pods at the last tick
    starting_uids: frozenset[str] = frozenset()  # pods never seen ready, to time their start
    startups: tuple[float, ...] = ()  # seconds from creation to Ready, newest last

    @classmethod
    def restored(cls, status: Mapping[str, Any], replicas: int, now: float) -> "History":
        """What an operator knows that sees this object for the first time; `replicas` are its live pods."""
        learned, startup = status.get("capacity", {}), status.get("startup", {})
        inputs = status.get("lastDecision", {}).get("inputs", {})
        burst = _number(inputs.get("load", {}).get("burstTokensPerSecond"))
        work = _number(learned.get("tokensPerRequest"))
        desired = status.get("desiredReplicas", replicas)
        quantiles = [_number(startup.get(name)) for name in ("p50Seconds", "p95Seconds")]
        return cls(
            desired=desired,
            recommendations=((now, desired),),
            capacity=_number(learned.get("tokensPerSecondPerReplica")),
            work_per_request=work,
            ready_changed_at=now,
            bursts=Bursts.restored(burst, work, now) if burst and work else QUIET,
            startups=tuple(seconds for seconds in quantiles if seconds is not None),
            has_served=bool(status.get("hasBeenReady", False)),
        )

    def remembered(self) -> dict[str, float]:
        """What was learned, by its name in status; `restored` reads it."""
        values = {"tokensPerSecondPerReplica": self.capacity, "tokensPerRequest": self.work_per_request}
        return {name: value for name, value in values.items() if value is not None}

    def is_one_process(self, now: float) -> bool:
        """Did no counter of any pod fall within its samples?"""
        return self.restarted_at < now - WINDOW

    def silence(self, *, is_silent: bool, now: float) -> float | None:
        """Since when nobody answers. `is_silent`: pods were asked, and none of them answered."""
        if not is_silent:
            return None
        return now if self.silent_since is None else self.silent_since

    def seen(
        self,
        observed: Observed,
        ready: Sequence[PodState],
        now: float,
        *,
        samples: Mapping[str, Series],
        restarted_at: float,
        bursts: Bursts,
        trend: Trend,
        turned_away: TurnedAway,
        silent_since: float | None,
        busy_at: float | None,
        has_served: bool,
        capacity: float | None,
        work_per_request: float | None,
    ) -> "History":
        """With these pods, and what was learned from them. `replace` would take three times as long, twice a look."""
        learned = History(
            samples=samples,
            restarted_at=restarted_at,
            desired=self.desired,
            lowered_at=self.lowered_at,
            recommendations=self.recommendations,
            asked_lately=self.asked_lately,
            bursts=bursts,
            trend=trend,
            turned_away=turned_away,
            silent_since=silent_since,
            busy_at=busy_at,
            has_served=has_served,
            capacity=capacity,
            work_per_request=work_per_request,
            ready_uids=self.ready_uids,
            ready_changed_at=self.ready_changed_at,
            uids=self.uids,
            starting_uids=self.starting_uids,
            startups=self.startups,
        )
        return learned if self._knows(observed, ready) else replace(learned, **self._readiness(observed, ready, now))

    def decided(self, decision: "Decided", window: float, now: float, *, is_done: bool) -> "History":
        """With this tick's numbers; recommendations older than the scale-down window go."""
        recommended, asked = decision.recommended, decision.asked
        held = [entry for entry in self.recommendations if entry[1] > recommended and entry[0] > now - window]
        lately = [entry for entry in self.asked_lately if entry[1] < asked and entry[0] > now - LASTING]
        desired = decision.replicas if is_done else decision.current
        is_lower = is_done and self.desired is not None and desired < self.desired
        return History(
            samples=self.samples,
            restarted_at=self.restarted_at,
            desired=desired,
            lowered_at=now if is_lower else self.lowered_at,
            recommendations=(*held, (now, recommended)),
            asked_lately=(*lately, (now, asked)),
            bursts=self.bursts,
            trend=self.trend,
            turned_away=self.turned_away,
            silent_since=self.silent_since,
            busy_at=self.busy_at,
            has_served=self.has_served,
            capacity=self.capacity,
            work_per_request=self.work_per_request,
            ready_uids=self.ready_uids,
            ready_changed_at=self.ready_changed_at,
            uids=self.uids,
            starting_uids=self.starting_uids,
            startups=self.startups,
        )

    def lasting(self, now: float) -> int | None:
        """The least that was asked for in the last seconds. None before anything was."""
        return min([replicas for at, replicas in self.asked_lately if at > now - LASTING], default=None)

    def peak(self, since: float) -> tuple[float, int] | None:
        """(epoch seconds, replicas) of the highest recommendation after `since`, the newest of equals."""
        highest = None
        for entry in self.recommendations:
            if entry[0] > since and (highest is None or (entry[1], entry[0]) >= (highest[1], highest[0])):
                highest = entry
        return highest

    def startup_quantile(self, share: float) -> float | None:
        """Seconds from creation to Ready, nearest rank; None before the first start was seen."""
        if not self.startups:
            return None
        ordered = sorted(self.startups)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def _knows(self, observed: Observed, ready: Sequence[PodState]) -> bool:
        """Were the same pods here, and all of them ready, then and now? So it is nearly always."""
        known, number = self.ready_uids, len(observed.pods)
        if self.starting_uids or number != len(ready) or number != len(known) or number != len(self.uids):
            return False
        return known == self.uids and known.issuperset([pod.uid for pod in ready])

    def _readiness(self, observed: Observed, pods: Sequence[PodState], now: float) -> dict[str, Any]:
        uids, ready = frozenset([pod.uid for pod in observed.pods]), frozenset([pod.uid for pod in pods])
        kept = [pod for pod in observed.pods if pod.is_live or pod.is_standby]
        # Only a pod that was seen from its birth tells how long a start takes: one that lost and regained readiness,
        # or that was ready before this operator came, does not.
        coming = [pod.uid for pod in kept if pod.phase is not PodPhase.READY]
        starting = [uid for uid in coming if uid in self.starting_uids or uid not in self.uids]
        known = [pod for pod in observed.pods if pod.uid in self.starting_uids]
        started = [pod for pod in known if pod.phase is PodPhase.READY]
        return {
            "uids": uids,
            "ready_uids": ready,
            "ready_changed_at": self.ready_changed_at if ready == self.ready_uids else now,
            "starting_uids": frozenset(starting),
            "startups": (*self.startups, *_durations(started))[-STARTUPS_KEPT:] if started else self.startups,
        }


def _durations(started: list[PodState]) -> list[float]:
    return [pod.ready_at - pod.created_at for pod in started if pod.ready_at is not None]


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str | int | float) else None
