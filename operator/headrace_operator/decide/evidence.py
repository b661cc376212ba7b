"""What a trial has measured: the work of the canary pods and of the stable ones, counted over the same time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace_operator.decide import waits
from headrace_operator.decide.rates import Counter, increase
from headrace_operator.decide.values import PodPhase, PodSample, PodState
from headrace_operator.decide.waits import Histogram
from headrace_operator.service import GoldenPrompt


@dataclass(frozen=True, slots=True)
class Tally:
    """What the pods of one side did, from the increases of their counters."""

    requests: float = 0.0  # that ended, or were refused for want of room
    failed: float = 0.0  # of these: ended by the server's fault, or refused
    token_gaps: float = 0.0  # times between two tokens of a request
    token_gap_seconds: float = 0.0  # their sum
    queue_waits: Histogram = ()

    @property
    def error_rate(self) -> float | None:
        """Share of requests. None without any."""
        return self.failed / self.requests if self.requests else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of a running request. None while no request has made a second token."""
        return self.token_gaps / self.token_gap_seconds if self.token_gap_seconds else None

    @property
    def queue_wait_p95(self) -> float | None:
        """Seconds. None without any request that was started."""
        return waits.quantile(self.queue_waits, waits.P95)

    def plus(self, before: PodSample, after: PodSample) -> "Tally":
        """With what one pod did between two samples."""
        return Tally(
            requests=self.requests + _increases(before, after, _finished, _refused),
            failed=self.failed + _increases(before, after, _failed, _refused),
            token_gaps=self.token_gaps + _increases(before, after, _token_gaps),
            token_gap_seconds=self.token_gap_seconds + _increases(before, after, _token_gap_seconds),
            queue_waits=waits.merged([self.queue_waits, _waits(before, after)]),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """How likely each side thinks the answer to one golden prompt: mean log-probability of its tokens, nats."""

    key: str  # of the prompt with its answer
    stable: float
    canary: float

    @property
    def loss(self) -> float:
        """Nats a token; positive where the canary is worse."""
        return self.stable - self.canary


@dataclass(frozen=True, slots=True)
class Evidence:
    stable: Tally = Tally()
    canary: Tally = Tally()
    scores: tuple[Score, ...] = ()
    ready_since: float | None = None  # epoch seconds; all canary pods have been ready since
    # The newest sample by pod UID. A restart loses it, and with it what the pods did meanwhile.
    last: Mapping[str, PodSample] = field(default_factory=dict)

    def gathered(self, stable: Sequence[PodState], canary: Sequence[PodState], scores: Sequence[Score]) -> "Evidence":
        """With what the pods of both sides did since their last samples.

        The stable side counts while it has a counterpart: what it did in the hours before compares with nothing.
        """
        known = {score.key for score in self.scores}
        is_compared = any(pod.phase is PodPhase.READY for pod in canary)
        return replace(
            self,
            stable=self._counted(self.stable, stable) if is_compared else self.stable,
            canary=self._counted(self.canary, canary),
            scores=(*self.scores, *(score for score in scores if score.key not in known)),
            last={pod.uid: pod.sample or self.last[pod.uid] for pod in (*stable, *canary) if self._is_known(pod)},
        )

    def ready(self, *, is_ready: bool, now: float) -> "Evidence":
        since = self.ready_since if self.ready_since is not None else now
        return replace(self, ready_since=since if is_ready else None)

    def _counted(self, tally: Tally, pods: Sequence[PodState]) -> Tally:
        for pod in pods:
            if pod.sample and pod.uid in self.last:
                tally = tally.plus(self.last[pod.uid], pod.sample)
        return tally

    def _is_known(self, pod: PodState) -> bool:
        return pod.sample is not None or pod.uid in self.last


def key(golden: GoldenPrompt) -> str:
    """Eight hex digits by which a score finds its prompt again, whatever else the list says by then."""
    return hashlib.sha256(f"{golden.prompt}\0{golden.answer}".encode()).hexdigest()[:8]


def _increases(before: PodSample, after: PodSample, *counters: Counter) -> float:
    return sum(increase((before, after), counter) for counter in counters)


def _waits(before: PodSample, after: PodSample) -> Histogram:
    """As `increase`, of a histogram; a process that started from zero shows in its other counters."""
    if after.received < before.received or after.tokens < before.tokens:
        return tuple(after.queue_waits)
    known = dict(before.queue_waits)
    return tuple((bound, count - known.get(bound, 0.0)) for bound, count in after.queue_waits)


def _finished(sample: PodSample) -> float:
    return sample.finished


def _failed(sample: PodSample) -> float:
    return sample.failed


def _refused(sample: PodSample) -> float:
    return sample.refused


def _token_gaps(sample: PodSample) -> float:
    return sample.token_gaps


def _token_gap_seconds(sample: PodSample) -> float:
    return sample.token_gap_seconds
