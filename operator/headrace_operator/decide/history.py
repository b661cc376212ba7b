"""What the decision remembers between two ticks: recent samples by pod, recommendations, what was learned.

A frozen value: each tick makes a new one. What a restart must not forget goes to status (`remembered`) and comes back
(`restored`); the scale-down window starts with the replicas decided last, so that a restart never scales down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headrace_operator.decide.bursts import QUIET, Bursts
from headrace_operator.decide.forecast import UNKNOWN, Trend
from headrace_operator.decide.rates import SHORTEST, Series
from headrace_operator.decide.turned_away import NOBODY, TurnedAway
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState

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
    desired: int | None = None  # replicas decided last
    lowered_at: float | None = None  # when a decision was lower than the one before
    # (epoch seconds, replicas), oldest first; only those that no later one reaches, so the first is the highest
    recommendations: tuple[tuple[float, int], ...] = ()
    asked_lately: tuple[
        tuple[float, int], ...
    ] = ()  # (epoch seconds, replicas) of the last seconds, as they were asked
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
        burst = _number(inputs.get("load", {}).get("burstArrivalsPerSecond"))
        desired = status.get("desiredReplicas", replicas)
        quantiles = [_number(startup.get(name)) for name in ("p50Seconds", "p95Seconds")]
        return cls(
            desired=desired,
            recommendations=((now, desired),),
            capacity=_number(learned.get("tokensPerSecondPerReplica")),
            work_per_request=_number(learned.get("tokensPerRequest")),
            ready_changed_at=now,
            bursts=QUIET if burst is None else Bursts.restored(burst, now),
            startups=tuple(seconds for seconds in quantiles if seconds is not None),
            has_served=bool(status.get("hasBeenReady", False)),
        )

    def remembered(self) -> dict[str, float]:
        """What was learned, by its name in status; `restored` reads it."""
        values = {"tokensPerSecondPerReplica": self.capacity, "tokensPerRequest": self.work_per_request}
        return {name: value for name, value in values.items() if value is not None}

    def extended(self, observed: Observed, now: float) -> dict[str, Series]:
        """The samples with this tick's; what has left the window or the cluster is forgotten."""
        known, since = self.samples, now - WINDOW
        extended = {}
        for pod in observed.pods:
            if series := _extended(known.get(pod.uid, ()), pod.sample, since):
                extended[pod.uid] = series
        return extended

    def silence(self, *, is_silent: bool, now: float) -> float | None:
        """Since when nobody answers. `is_silent`: pods were asked, and none of them answered."""
        if not is_silent:
            return None
        return now if self.silent_since is None else self.silent_since

    def seen(self, observed: Observed, now: float, **learned: Any) -> "History":
        """With these pods, and the fields that were learned from them: one copy a look, for they cost most of it."""
        return replace(self, **learned, **self._readiness(observed, now))

    def decided(self, decision: "Decided", window: float, now: float, *, is_done: bool) -> "History":
        """With this tick's numbers; recommendations older than the scale-down window go."""
        held = [entry for entry in self.recommendations if entry[0] > now - window and entry[1] > decision.recommended]
        asked = [entry for entry in self.asked_lately if entry[0] > now - LASTING]
        desired = decision.replicas if is_done else decision.current
        is_lower = is_done and self.desired is not None and desired < self.desired
        return replace(
            self,
            desired=desired,
            lowered_at=now if is_lower else self.lowered_at,
            recommendations=(*held, (now, decision.recommended)),
            asked_lately=(*asked, (now, decision.asked)),
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

    def _readiness(self, observed: Observed, now: float) -> dict[str, Any]:
        uids, ready = frozenset([pod.uid for pod in observed.pods]), frozenset([pod.uid for pod in observed.ready])
        if uids == ready == self.uids == self.ready_uids and not self.starting_uids:
            return {}  # nearly always
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


def _extended(known: Series, sample: PodSample | None, since: float) -> Series:
    """With a newer sample; without those that left the window, but for one: a rate needs a point to start from."""
    series = tuple(known)
    if sample is not None and (not series or series[-1].at < sample.at):
        # Of samples in quick succession (a burst of watch events) the newest counts.
        is_quick = len(series) >= 2 and series[-1].at - series[-2].at < SHORTEST
        series = (*(series[:-1] if is_quick else series), sample)
    old, length = 0, len(series)
    while old < length and series[old].at < since:
        old += 1
    return series[max(0, old - 1) :] if old < length else ()


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str | int | float) else None
