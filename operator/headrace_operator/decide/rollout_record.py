"""A rollout as status.rollout tells it, and back: another operator continues a trial from here, not from the beginning.

A trial is told anew when it takes a step, or when its requests have grown by NOTABLE; a restart loses at most what came
since, and the trial lasts that much longer.
"""

import math
from collections.abc import Mapping
from typing import Any

from headrace_operator.decide.conditions import epoch, timestamp
from headrace_operator.decide.evidence import Evidence, Score, Tally, key
from headrace_operator.decide.headway import Headway
from headrace_operator.decide.numbers import rounded, text
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.waits import Histogram
from headrace_operator.service import InferenceDeployment, Strategy

NOTABLE = 0.2  # of the requests that stand in status
UNKNOWN = "unknown"
PROMPT_SHOWN = 60  # characters of a golden prompt

Told = Mapping[str, Any]


def as_status(deployment: InferenceDeployment, progress: Progress, before: Told) -> dict[str, Any]:
    """`before`: status.rollout as it stands."""
    now = {
        "strategy": str(_strategy(deployment, progress)),
        "state": str(progress.state),
        "stableRevision": progress.stable,
        "updatedRevision": progress.updated,
        "reason": str(progress.verdict),
        "message": progress.message,
        "startedAt": timestamp(progress.started_at),
        "maxSurge": int(progress.surge),
        "stableServed": progress.stable_served,
        "headway": _headway(progress.headway),
        "evidence": _evidence(deployment, progress.evidence),
    }
    return dict(before) if before and _step(before) == _step(now) and not _has_grown(before, now) else now


def restored(told: Told) -> Progress | None:
    """None where nothing was told. Raises nothing for what an older operator left out."""
    if not told.get("updatedRevision"):
        return None
    return Progress(
        state=State(told["state"]),
        stable=told["stableRevision"],
        updated=told["updatedRevision"],
        started_at=epoch(told["startedAt"]),
        verdict=Verdict(told["reason"]),
        message=told.get("message", ""),
        surge=told.get("maxSurge", 1) > 0,
        evidence=_restored_evidence(told.get("evidence", {})),
        stable_served=told.get("stableServed", False),
        headway=_restored_headway(told.get("headway", {}), epoch(told["startedAt"])),
        is_shadow=told.get("strategy") == Strategy.SHADOW,
    )


def _strategy(deployment: InferenceDeployment, progress: Progress) -> Strategy:
    """Of a trial, that by which it runs: the manifest may say another one by the time that it is over."""
    if progress.state not in {State.TRIAL, State.ROLLED_BACK}:
        return deployment.rollout.strategy
    return Strategy.SHADOW if progress.is_shadow else Strategy.CANARY


def _step(told: Told) -> list[Any]:
    """What is always worth a write."""
    evidence = told.get("evidence", {})
    parts = [
        told.get(name)
        for name in (
            "strategy", "state", "stableRevision", "updatedRevision", "reason", "maxSurge", "stableServed", "headway",
        )
    ]  # fmt: skip
    return [*parts, told.get("startedAt"), evidence.get("readySince"), evidence.get("golden")]


def _has_grown(before: Told, now: Told) -> bool:
    counts = [(_requests(before, side), _requests(now, side)) for side in ("stable", "canary")]
    return any(after > known * (1 + NOTABLE) for known, after in counts)


def _requests(told: Told, side: str) -> int:
    return int(told.get("evidence", {}).get(side, {}).get("requests", 0))


def _headway(headway: Headway) -> dict[str, Any]:
    return {
        "at": timestamp(headway.at),
        "updatedReady": headway.updated,
        "outdated": headway.outdated,
        "deadlineExceeded": headway.is_overdue,
    }


def _restored_headway(told: Told, started_at: float) -> Headway:
    """What an older operator did not tell begins with the rollout."""
    at = epoch(told["at"]) if told else started_at
    return Headway(at, told.get("updatedReady", 0), told.get("outdated", 0), told.get("deadlineExceeded", False))


def _evidence(deployment: InferenceDeployment, evidence: Evidence) -> dict[str, Any]:
    prompts = {key(golden): golden.prompt[:PROMPT_SHOWN] for golden in deployment.rollout.canary.golden}
    return {
        "stable": _tally(evidence.stable),
        "canary": _tally(evidence.canary),
        "golden": [_score(score, prompts.get(score.key, "")) for score in evidence.scores],
        "readySince": "" if evidence.ready_since is None else timestamp(evidence.ready_since),
    }


def _tally(tally: Tally) -> dict[str, Any]:
    """The measures that people compare, and below them the counts that they are made of. Every key, every time: a
    merge patch would leave what is missing as it stood."""
    return {
        "queueWaitP95": _told(tally.queue_wait_p95, 1000, "ms"),
        "errorRate": _told(tally.error_rate, 100, "%"),
        "tokensPerSecond": _told(tally.tokens_per_second),
        "requests": round(tally.requests),
        "failed": round(tally.failed),
        "tokenGaps": round(tally.token_gaps),
        "tokenGapSeconds": text(rounded(tally.token_gap_seconds)),
        "queueWaits": [
            {"atMost": text(bound), "count": text(rounded(count))} for bound, count in _corners(tally.queue_waits)
        ],
    }


def _corners(waits: Histogram) -> Histogram:
    """Without bounds between which nothing was counted: in between, counts are the same, and nothing is lost."""
    last = len(waits) - 1
    return tuple(
        (bound, count)
        for n, (bound, count) in enumerate(waits)
        if n in {0, last} or not waits[n - 1][1] == count == waits[n + 1][1]
    )


def _told(value: float | None, factor: float = 1.0, unit: str = "") -> str:
    return UNKNOWN if value is None else f"{text(rounded(value * factor))}{unit}"


def _score(score: Score, prompt: str) -> dict[str, str]:
    sides = {"stable": f"{score.stable:.4f}", "canary": f"{score.canary:.4f}"}
    return {"key": score.key, "prompt": prompt, **sides}


def _restored_evidence(told: Told) -> Evidence:
    since = told.get("readySince")
    return Evidence(
        stable=_restored_tally(told.get("stable", {})),
        canary=_restored_tally(told.get("canary", {})),
        scores=tuple(
            Score(entry["key"], float(entry["stable"]), float(entry["canary"])) for entry in told.get("golden", [])
        ),
        ready_since=epoch(since) if since else None,
    )


def _restored_tally(told: Told) -> Tally:
    return Tally(
        requests=float(told.get("requests", 0)),
        failed=float(told.get("failed", 0)),
        token_gaps=float(told.get("tokenGaps", 0)),
        token_gap_seconds=float(told.get("tokenGapSeconds", "0")),
        queue_waits=_restored_waits(told.get("queueWaits", [])),
    )


def _restored_waits(told: list[Mapping[str, str]]) -> Histogram:
    waits = ((float(entry["atMost"]), float(entry["count"])) for entry in told)
    return tuple(sorted(waits, key=lambda entry: (math.isinf(entry[0]), entry[0])))
