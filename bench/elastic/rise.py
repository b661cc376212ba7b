"""One replica, eight, one again: does every request get its answer, and how soon are the eight there?"""

import asyncio
from typing import Any

from cluster import LocalCluster
from comparison.percentile import milliseconds
from demo import story
from demo.timeline import Sample

NAME = "rise"
MOST = 8


def spec() -> dict[str, Any]:
    """Two slots a replica: eight have 16, so that 40 users who never pause fill them and wait besides."""
    return {
        "autoscaling": {"minReplicas": 1, "maxReplicas": MOST, "scaleDownWindow": "5s"},
        "batching": {"maxRunning": 2},
    }


def measure(cluster: LocalCluster, say: story.Say, *, users: int, rush: float, rest: float) -> dict[str, Any]:
    """`users` for `rush` seconds, then two that ask slowly for at most `rest`, until one replica is left."""
    outcome = asyncio.run(story.rush_and_rest(cluster, say, users=users, rush=rush, rest=rest, name=NAME))
    answers, samples = outcome.answers, outcome.timeline.samples
    return {
        "name": f"1 -> {MOST} -> 1 under load",
        "requests_sent": answers.sent,
        "requests_failed": answers.failed,
        "failures": dict(answers.failures),
        "success_share": success_share(answers.sent, answers.failed),
        "ready_peak": outcome.timeline.peak_ready,
        "ready_at_end": outcome.ready_at_end,
        "desired_most_after_s": first(samples, "desired"),
        "ready_most_after_s": first(samples, "ready"),
        "queue_wait_p50_ms": milliseconds(answers.queue_waits, 50),
        "queue_wait_p95_ms": milliseconds(answers.queue_waits, 95),
    }


def success_share(sent: int, failed: int) -> float | None:
    """Rounded down, so that one failure in a million is never shown as none."""
    return None if not sent else int((sent - failed) / sent * 1e5) / 1e5


def first(samples: list[Sample], field: str) -> float | None:
    """Seconds from the start of the load until the status said MOST; None: it never did."""
    return next((round(sample.at, 1) for sample in samples if getattr(sample, field) >= MOST), None)
