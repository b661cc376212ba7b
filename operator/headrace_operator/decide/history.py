"""What the decision remembers between two ticks: recent samples by pod, recommendations, what was learned.

A frozen value: each tick makes a new one. What a restart must not forget goes to status (`remembered`) and comes back
(`restored`); the scale-down window starts with the replicas decided last, so that a restart never scales down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_operator.decide.bursts import QUIET, Bursts
from headrace_operator.decide.rates import SHORTEST, Series
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState

WINDOW = 15.0  # seconds of samples that a decision looks at: several scrapes, and short against a cold start
STARTUPS_KEPT = 20
LASTING = 15.0  # seconds after which a much higher number was no blink: the scale-down window holds it from then on


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
    silent_since: float | None = None  # since when no ready pod has answered
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
        )

    def remembered(self) -> dict[str, float]:
        """What was learned, by its name in status; `restored` reads it."""
        values = {"tokensPerSecondPerReplica": self.capacity, "tokensPerRequest": self.work_per_request}
        return {name: value for name, value in values.items() if value is not None}

    def seen(self, observed: Observed, now: float) -> "History":
        """With this tick's samples; what has left the window or the cluster is forgotten."""
        series = {pod.uid: _extended(self.samples.get(pod.uid, ()), pod.sample, now - WINDOW) for pod in observed.pods}
        samples = {uid: known for uid, known in series.items() if known}
        return replace(self, samples=samples, **self._readiness(observed, now))

    def heard(self, *, is_silent: bool, now: float) -> "History":
        """`is_silent`: pods were asked, and none of them answered."""
        since = now if self.silent_since is None else self.silent_since
        return replace(self, silent_since=since if is_silent else None)

    def decided(self, replicas: int, now: float) -> "History":
        is_lower = self.desired is not None and replicas < self.desired
        return replace(self, desired=replicas, lowered_at=now if is_lower else self.lowered_at)

    def recommended(self, replicas: int, window: float, now: float) -> "History":
        """With this tick's recommendation; those older than the scale-down window go."""
        kept = tuple(entry for entry in self.recommendations if entry[0] > now - window and entry[1] > replicas)
        return replace(self, recommendations=(*kept, (now, replicas)))

    def asked(self, replicas: int, now: float) -> "History":
        """With what this tick asked for, lasting or not."""
        kept = tuple(entry for entry in self.asked_lately if entry[0] > now - LASTING)
        return replace(self, asked_lately=(*kept, (now, replicas)))

    def lasting(self, now: float) -> int | None:
        """The least that was asked for in the last seconds. None before anything was."""
        return min((replicas for at, replicas in self.asked_lately if at > now - LASTING), default=None)

    def peak(self, since: float) -> tuple[float, int] | None:
        """(epoch seconds, replicas) of the highest recommendation after `since`, the newest of equals."""
        return max(((at, value) for at, value in self.recommendations if at > since), key=_by_replicas, default=None)

    def startup_quantile(self, share: float) -> float | None:
        """Seconds from creation to Ready, nearest rank; None before the first start was seen."""
        ordered = sorted(self.startups)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def _readiness(self, observed: Observed, now: float) -> dict[str, Any]:
        ready = frozenset(pod.uid for pod in observed.ready)
        # Only a pod that was seen from its birth tells how long a start takes: one that lost and regained readiness,
        # or that was ready before this operator came, does not.
        starting = frozenset(
            pod.uid
            for pod in (*observed.live, *observed.standby)
            if pod.phase is not PodPhase.READY and (pod.uid in self.starting_uids or pod.uid not in self.uids)
        )
        started = [pod for pod in observed.pods if pod.phase is PodPhase.READY and pod.uid in self.starting_uids]
        return {
            "uids": frozenset(pod.uid for pod in observed.pods),
            "ready_uids": ready,
            "ready_changed_at": self.ready_changed_at if ready == self.ready_uids else now,
            "starting_uids": starting,
            "startups": (*self.startups, *_durations(started))[-STARTUPS_KEPT:],
        }


def _by_replicas(entry: tuple[float, int]) -> tuple[int, float]:
    at, replicas = entry
    return replicas, at


def _durations(started: list[PodState]) -> list[float]:
    return [pod.ready_at - pod.created_at for pod in started if pod.ready_at is not None]


def _extended(known: Series, sample: PodSample | None, since: float) -> Series:
    """With a newer sample; without those that left the window, but for one: a rate needs a point to start from."""
    series = tuple(known)
    if sample and (not series or series[-1].at < sample.at):
        # Of samples in quick succession (a burst of watch events) the newest counts.
        is_quick = len(series) >= 2 and series[-1].at - series[-2].at < SHORTEST
        series = (*(series[:-1] if is_quick else series), sample)
    old = sum(entry.at < since for entry in series)
    return series[max(0, old - 1) :] if old < len(series) else ()


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str | int | float) else None
