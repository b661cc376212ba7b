"""Prometheus text of one server to a PodSample. What is missing makes the whole sample unknown, never zero."""

import re

from prometheus_client.parser import text_string_to_metric_families

from headrace_operator.decide.values import PodSample
from headrace_operator.errors import ScrapeFailed

QUEUE_WAIT = "headrace_queue_wait_seconds_bucket"
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
OVERLOADED = "overloaded"
FINISHED = "headrace_requests_finished_total"  # by outcome; no series before the first request has ended
FAILED = "failed"  # the outcome that is the server's own fault

# A server says 240 lines and we need 30 of them: parsing only those takes a sixth of the time, 1,000 times a second.
READ = re.compile(rf"^(?:{'|'.join((*NEEDED, QUEUE_WAIT, REFUSED, FINISHED))})[ {{].*\n?", re.MULTILINE)


def parse(text: str, at: float) -> PodSample:
    """Raises ScrapeFailed when the text is no exposition, or lacks a series of the contract."""
    values: dict[str, float] = {}
    waits: list[tuple[float, float]] = []
    try:
        for family in text_string_to_metric_families("".join(READ.findall(text))):
            for sample in family.samples:
                if sample.name == QUEUE_WAIT:
                    waits.append((float(sample.labels["le"]), sample.value))
                elif sample.name == REFUSED and sample.labels.get("reason") != OVERLOADED:
                    continue  # what is invalid is no demand
                elif sample.name in {*NEEDED, FINISHED, REFUSED}:
                    values[sample.name] = values.get(sample.name, 0.0) + sample.value
                if sample.name == FINISHED and sample.labels.get("outcome") == FAILED:
                    values[FAILED] = sample.value
    except (ValueError, KeyError) as error:
        raise ScrapeFailed(f"no Prometheus text: {error}") from error
    if missing := [name for name in NEEDED if name not in values]:
        raise ScrapeFailed(f"series missing: {', '.join(missing)}")
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
        queue_waits=tuple(sorted(waits)),
        failed=values.get(FAILED, 0.0),
        refused=values.get(REFUSED, 0.0),
        token_gaps=values["headrace_inter_token_latency_seconds_count"],
        token_gap_seconds=values["headrace_inter_token_latency_seconds_sum"],
    )
