"""A server's series to a PodSample. What is missing makes the whole sample unknown, never zero."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from headrace_operator.decide.buckets import Buckets
from headrace_operator.decide.values import PodSample
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe.prometheus import REMEMBERED, Line, lines, series

QUEUE_WAIT = "headrace_queue_wait_seconds_bucket"  # by class and tenant class
OFFLINE = "batch"  # nobody waits for those: their waits break no promise, and they order no replica
OLDEST = "headrace_oldest_waiting_seconds"
RETRIED = "headrace_requests_retried_total"  # of all requests, when they are over: only its online part is read
BY_CLASS = {  # from a server that tells them apart, the online part of these
    "headrace_requests_waiting": "headrace_requests_waiting_by_class",
    "headrace_requests_running": "headrace_requests_running_by_class",
    OLDEST: "headrace_oldest_waiting_seconds_by_class",
    "headrace_requests_received_total": "headrace_requests_received_by_class_total",
    "headrace_requests_refused_total": "headrace_requests_refused_by_class_total",
    RETRIED: "headrace_requests_retried_by_class_total",
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
KV_PAGES, KV_FREE = "headrace_kv_pages_total", "headrace_kv_pages_free"  # of a server that generates
FAILED = "failed"  # the outcome that is the server's own fault

OLDEST_ONLINE = BY_CLASS[OLDEST]
READ = (*NEEDED, *BY_CLASS.values(), QUEUE_WAIT, REFUSED, FINISHED, KV_PAGES, KV_FREE)
_READ = frozenset(READ)


def parse(text: str, at: float) -> PodSample:
    """Raises ScrapeFailed when the text is no exposition, or lacks a series of the contract."""
    return sample(lines(text), at)


def sample(told: Iterable[Line], at: float, *, drained: bool | None = None) -> PodSample:
    """Raises ScrapeFailed when a series of the contract is missing, or has a value that cannot be."""
    try:
        values = _added(told)
    except ValueError as error:
        raise ScrapeFailed(f"no Prometheus text: {error}") from error
    if missing := [name for name in NEEDED if name not in values]:
        raise ScrapeFailed(f"series missing: {', '.join(missing)}")
    values[FINISHED] = values.get(FINISHED, 0.0) + values.get(FAILED, 0.0)
    values |= {whole: values[online] for whole, online in BY_CLASS.items() if online in values}
    return PodSample(
        at=at,
        waiting=int(values["headrace_requests_waiting"]),
        running=int(values["headrace_requests_running"]),
        max_running=int(values["headrace_max_running"]),
        oldest_waiting=values["headrace_oldest_waiting_seconds"],
        received=values["headrace_requests_received_total"] + values.get(REFUSED, 0.0),
        finished=values[FINISHED],
        finished_tokens=values["headrace_finished_request_tokens_total"],
        tokens=values["headrace_prompt_tokens_total"] + values["headrace_generation_tokens_total"],
        queue_waits=Buckets(sorted((key, count) for key, count in values.items() if isinstance(key, float))),
        failed=values.get(FAILED, 0.0),
        refused=values.get(REFUSED, 0.0),
        retried=values.get(RETRIED, 0.0),
        token_gaps=values["headrace_inter_token_latency_seconds_count"],
        token_gap_seconds=values["headrace_inter_token_latency_seconds_sum"],
        kv_use=_kv_use(values),
        drained=drained,
    )


def _added(told: Iterable[Line]) -> dict[str | float, float]:
    """By `_key`. Raises ValueError."""
    values: dict[str | float, float] = {}
    for head, text in told:
        key = _key(head)
        if key is None:
            continue
        value = float(text)
        if not 0 <= value <= LARGEST:  # NaN is not, either: one pod that says so must not move the others
            raise ValueError(f"{head} is {text[:40]}")
        if key == OLDEST_ONLINE:
            values[key] = max(values.get(key, 0.0), value)
        else:
            values[key] = values[key] + value if key in values else value
    return values


@lru_cache(maxsize=REMEMBERED)
def _key(head: str) -> str | float | None:
    """Under which a value is added up: the upper bound of a queue wait's bucket, or a name. None: it is not read.

    Raises ValueError for a bucket without a bound.
    """
    found = series(head)
    if found is None or found.name not in _READ or found.labels.get("class") == OFFLINE:
        return None
    name, labels = found.name, found.labels
    if name == QUEUE_WAIT:
        return _bound(labels.get("le", ""))
    if name == REFUSED:
        return name if labels.get("reason") in WOULD_HAVE_RUN else None  # what is invalid is no demand
    return FAILED if name == FINISHED and labels.get("outcome") == FAILED else name


def _kv_use(values: Mapping[str | float, float]) -> float:
    """Share of the pages that requests hold; what the prefix cache alone holds is free."""
    pages = values.get(KV_PAGES, 0.0)
    return max(0.0, 1.0 - values.get(KV_FREE, pages) / pages) if pages else 0.0


def _bound(label: str) -> float:
    """Of a bucket, in seconds; the last one has none. Raises ValueError."""
    bound = float(label)
    if not bound >= 0:
        raise ValueError(f"{QUEUE_WAIT} has a bucket up to {label[:40]}")
    return bound
