"""What the decision remembers between two ticks: recent samples by pod, recommendations, learned capacity.

A frozen value: each tick makes a new one. What a restart must not forget goes to status (`remembered`) and comes back
(`restored`); the scale-down window starts with the current replicas instead, so that a restart never scales down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_operator.decide.values import Observed, PodSample

WINDOW = 15.0  # seconds of samples that a decision looks at: several scrapes, and short against a cold start
STARTUPS_KEPT = 20


@dataclass(frozen=True, slots=True)
class History:
    samples: Mapping[str, tuple[PodSample, ...]] = field(default_factory=dict)  # by pod UID, oldest first
    recommendations: tuple[tuple[float, int], ...] = ()  # (epoch seconds, replicas), oldest first
    capacity: float | None = None  # tokens/s that one warm replica carries, learned when saturated
    work_per_request: float | None = None  # tokens, prompt + generated, of finished requests
    ready_changed_at: float = (
        0.0  # when the set of ready pods changed last: older waits say nothing about today's supply
    )
    ready_uids: frozenset[str] = frozenset()
    startups: tuple[float, ...] = ()  # seconds from creation to Ready, newest last

    @classmethod
    def restored(cls, status: Mapping[str, Any], replicas: int, now: float) -> "History":
        """What an operator knows that sees this object for the first time."""
        capacity = status.get("capacity", {})
        return cls(
            recommendations=((now, replicas),),
            capacity=_number(capacity.get("tokensPerSecondPerReplica")),
            work_per_request=_number(capacity.get("tokensPerRequest")),
            ready_changed_at=now,
        )

    def remembered(self) -> dict[str, Any]:
        """The part of status that `restored` reads, rounded so that noise does not rewrite the object."""
        values = {"tokensPerSecondPerReplica": self.capacity, "tokensPerRequest": self.work_per_request}
        return {name: f"{value:.3g}" for name, value in values.items() if value is not None}

    def seen(self, observed: Observed, now: float) -> "History":
        """With this tick's samples; what has left the window or the cluster is forgotten."""
        samples = {}
        for pod in observed.pods:
            known = self.samples.get(pod.uid, ())
            if pod.sample and (not known or known[-1].at < pod.sample.at):
                known = (*known, pod.sample)
            # One sample older than the window stays: rates need a first point.
            inside = [index for index, sample in enumerate(known) if sample.at >= now - WINDOW]
            if known and inside:
                samples[pod.uid] = known[max(0, inside[0] - 1) :]
        return replace(self, samples=samples, **self._changes_of_ready(observed, now))

    def _changes_of_ready(self, observed: Observed, now: float) -> dict[str, Any]:
        ready = frozenset(pod.uid for pod in observed.ready)
        if ready == self.ready_uids:
            return {}
        fresh = [
            pod.ready_at - pod.created_at
            for pod in observed.ready
            if pod.uid not in self.ready_uids and pod.ready_at is not None
        ]
        startups = (*self.startups, *fresh)[-STARTUPS_KEPT:]
        return {"ready_uids": ready, "ready_changed_at": now, "startups": startups}

    def recommended(self, replicas: int, window: float, now: float) -> "History":
        """With this tick's recommendation; those older than the scale-down window go."""
        kept = tuple((at, value) for at, value in self.recommendations if at > now - window)
        return replace(self, recommendations=(*kept, (now, replicas)))

    def startup_quantile(self, share: float) -> float | None:
        """Seconds from creation to Ready, nearest rank; None before the first start was seen."""
        ordered = sorted(self.startups)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str | int | float) else None
