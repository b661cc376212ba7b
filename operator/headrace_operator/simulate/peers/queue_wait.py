"""The metric of an HPA that is given Headrace's own signal: p95 of the queue wait of each pod over the last minute.

Source: what `histogram_quantile(0.95, rate(headrace_queue_wait_seconds_bucket[1m]))` by pod shows through an adapter.
Nobody publishes it; it is the best that HPA could do with measured wait.
"""

from dataclasses import dataclass, field

from headrace_operator.decide.values import PodSample
from headrace_operator.decide.waits import quantile
from headrace_operator.simulate.policy import Pod

RANGE = 60.0  # seconds: [1m]


@dataclass(slots=True)
class QueueWait:
    """Seconds; remembers a minute of each pod's histogram."""

    known: dict[str, list[PodSample]] = field(default_factory=dict)

    def __call__(self, pod: Pod) -> float | None:
        if pod.sample is None:
            return None
        series = self.known.setdefault(pod.uid, [])
        series.append(pod.sample)
        while series[0].at < pod.sample.at - RANGE:
            series.pop(0)
        before = dict(series[0].queue_waits) if len(series) > 1 else {}
        gained = tuple((bound, count - before.get(bound, 0.0)) for bound, count in pod.sample.queue_waits)
        return quantile(gained, 0.95) or 0.0
