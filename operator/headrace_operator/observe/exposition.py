"""A server's series to a PodSample. What is missing makes the whole sample unknown, never zero."""

from collections.abc import Iterable
from functools import lru_cache

from headrace_operator.decide.values import PodSample
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe.prometheus import Series, lines

QUEUE_WAIT = "headrace_queue_wait_seconds_bucket"  # by class and tenant class
OFFLINE = "batch"  # nobody waits for those: their waits break no promise, and they order no replica
OLDEST = "headrace_oldest_waiting_seconds"
BY_CLASS = {  # from a server that tells them apart, the online part of these
    "headrace_requests_waiting": "headrace_requests_waiting_by_class",
    "headrace_requests_running": "headrace_requests_running_by_class",
    OLDEST: "headrace_oldest_waiting_seconds_by_class",
    "headrace_requests_received_total": "headrace_requests_received_by_class_total",
    "headrace_requests_refused_total": "headrace_requests_refused_by_class_total",
    "headrace_requests_finished_total": "headrace_requests_finished_by_class_total",
    "headrace_finished_request_tokens_total": "headrace_finished_request_tokens_by_class_total",
}
NEEDED = (
    "headrace_requests_waiting",
    "headrace_requests_running",
    "headrace_max_running",
    "headrace_oldest_waiting_seconds",
    "headrace_requests_received_total",
    "headrace_prompt_tokens_total",
    "headrace_generation_tokens_total",
    "headrace_finished_request_tokens_total",
    "headrace_inter_token_latency_seconds_count",
    "headrace_inter_token_latency_seconds_sum",
)
REFUSED = "headrace_requests_refused_total"  # by reason; no series before the first refusal
WOULD_HAVE_RUN = {"overloaded", "late"}  # on more replicas
FINISHED = "headrace_requests_finished_total"  # by outcome; no series before the first request has ended
LARGEST = 1e15  # of any number in a sample: above, a float cannot tell one from the next for long
FAILED = "failed"  # the outcome that is the server's own fault

READ = (*NEEDED, *BY_CLASS.values(), QUEUE_WAIT, REFUSED, FINISHED)
_READ = frozenset(READ)


def parse(text: str, at: float) -> PodSample:
    """Raises ScrapeFailed when the text is no exposition, or lacks a series of the contract."""
    return sample(lines(text), at)


def sample(told: Iterable[tuple[Series, str]], at: float, *, drained: bool | None = None) -> PodSample:
    """Raises ScrapeFailed when a series of the contract is missing, or has a value that cannot be."""
    values: dict[str, float] = {}
    waits: dict[float, float] = {}
    try:
        for series, text in told:
            name, labels = series.name, series.labels
            if name not in _READ or labels.get("class") == OFFLINE:
                continue
            value = _number(name, text)
            if name == QUEUE_WAIT:
                bound = _bound(labels.get("le", ""))
                waits[bound] = waits.get(bound, 0.0) + value
            else:
                _add(values, series, value)
    except ValueError as error:
        raise ScrapeFailed(f"no Prometheus text: {error}") from error
    if missing := [name for name in NEEDED if name not in values]:
        raise ScrapeFailed(f"series missing: {', '.join(missing)}")
    values |= {whole: values[online] for whole, online in BY_CLASS.items() if online in values}
    return PodSample(
        at=at,
        waiting=int(values["headrace_requests_waiting"]),
        running=int(values["headrace_requests_running"]),
        max_running=int(values["headrace_max_running"]),
        oldest_waiting=values["headrace_oldest_waiting_seconds"],
        received=values["headrace_requests_received_total"] + values.get(REFUSED, 0.0),
        finished=values.get(FINISHED, 0.0),
        finished_tokens=values["headrace_finished_request_tokens_total"],
        tokens=values["headrace_prompt_tokens_total"] + values["headrace_generation_tokens_total"],
        queue_waits=tuple(sorted(waits.items())),
        failed=values.get(FAILED, 0.0),
        refused=values.get(REFUSED, 0.0),
        token_gaps=values["headrace_inter_token_latency_seconds_count"],
        token_gap_seconds=values["headrace_inter_token_latency_seconds_sum"],
        drained=drained,
    )


def _add(values: dict[str, float], series: Series, value: float) -> None:
    name = series.name
    if name == BY_CLASS[OLDEST]:
        values[name] = max(values.get(name, 0.0), value)
    elif name != REFUSED or series.labels.get("reason") in WOULD_HAVE_RUN:  # what is invalid is no demand
        values[name] = values.get(name, 0.0) + value
    if name == FINISHED and series.labels.get("outcome") == FAILED:
        values[FAILED] = value


def _number(name: str, text: str) -> float:
    """Raises ValueError for what can be no count and no time: one pod that says so must not move the others."""
    value = float(text)
    if not 0 <= value <= LARGEST:  # NaN is not, either
        raise ValueError(f"{name} is {text[:40]}")
    return value


@lru_cache(maxsize=256)
def _bound(label: str) -> float:
    """Of a bucket, in seconds; the last one has none. Raises ValueError. One number for all samples: it is in each."""
    bound = float(label)
    if not bound >= 0:
        raise ValueError(f"{QUEUE_WAIT} has a bucket up to {label[:40]}")
    return bound
