"""May the revision on trial take over? Gates in order, each with the numbers that it compared.

What the canary pods do to themselves counts at once, and so does a worse answer to a golden prompt, which no number of
requests would improve. Everything else is believed after min_samples requests on both sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace_operator.decide.evidence import Evidence, Tally, key
from headrace_operator.decide.numbers import milliseconds
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.values import PodPhase, PodState
from headrace_operator.service import Canary, GoldenPrompt

FAILURES = (PodPhase.CRASH_LOOPING, PodPhase.MODEL_REFUSED, PodPhase.DEVICE_MISMATCH)


@dataclass(frozen=True, slots=True)
class Gates:
    """What the gates look at."""

    policy: Canary
    target: float  # seconds: the promised queue wait p95, within which no canary is refused
    pods: Sequence[PodState]  # of the revision on trial
    evidence: Evidence
    started_at: float
    now: float
    is_shadow: bool = False  # the pods hear copies of requests
    obstacle: str = ""  # why not all of the pods are there and ready, where that is known


@dataclass(frozen=True, slots=True)
class Judgement:
    """`verdict` is EVIDENCE_MISSING while there is no telling."""

    verdict: Verdict
    message: str  # with the numbers

    @property
    def is_back(self) -> bool:
        return self.verdict not in {Verdict.EVIDENCE_MISSING, Verdict.ALL_GATES_PASSED}


Gate = Callable[[Gates], str | None]  # why the canary must go back; None = it may stay


def judge(gates: Gates) -> Judgement:
    """The first gate that fails decides; promotion needs all of the evidence."""
    failed = Verdict.SHADOW_FAILED if gates.is_shadow else Verdict.CANARY_FAILED
    at_once: tuple[tuple[Verdict, Gate], ...] = ((failed, _failure), (Verdict.QUALITY_WORSE, _quality))
    for verdict, gate in (*at_once, *_MEASURED) if _has_samples(gates) else at_once:
        if why := gate(gates):
            return Judgement(verdict, why)
    if missing := _missing(gates):
        is_late = gates.now - gates.started_at >= gates.policy.deadline
        verdict = Verdict.DEADLINE_PASSED if is_late else Verdict.EVIDENCE_MISSING
        return Judgement(verdict, "; ".join(missing))
    return Judgement(Verdict.ALL_GATES_PASSED, _comparison(gates.evidence))


def _failure(gates: Gates) -> str | None:
    failed = [pod for pod in gates.pods if pod.phase in FAILURES]
    return f"{failed[0].name} is {failed[0].phase}: {failed[0].message}" if failed else None


def _quality(gates: Gates) -> str | None:
    loss, allowed = quality_loss(gates.policy.golden, gates.evidence), gates.policy.max_quality_loss
    if loss is None or loss <= allowed:
        return None
    return f"golden answers are {loss:.3f} nats a token less likely than with the old revision, {allowed:g} are allowed"


def _queue_wait(gates: Gates) -> str | None:
    old, new = gates.evidence.stable.queue_wait_p95, gates.evidence.canary.queue_wait_p95
    if old is None or new is None:
        return None
    allowed = max(old * gates.policy.max_queue_wait, gates.target)
    if new <= allowed:
        return None
    return f"p95 wait {milliseconds(new)} against {milliseconds(old)}, {milliseconds(allowed)} are allowed"


def _error_rate(gates: Gates) -> str | None:
    old, new = gates.evidence.stable.error_rate or 0.0, gates.evidence.canary.error_rate or 0.0
    if new <= old + gates.policy.max_error_rate:
        return None
    more = f"{gates.policy.max_error_rate:.2%} more are allowed"
    return f"{new:.2%} of {gates.evidence.canary.requests:.0f} requests failed against {old:.2%}, {more}"


def _speed(gates: Gates) -> str | None:
    old, new = gates.evidence.stable.tokens_per_second, gates.evidence.canary.tokens_per_second
    if old is None or new is None:
        return None
    needed = old * gates.policy.min_tokens_per_second
    if new >= needed:
        return None
    return f"a running request makes {new:.1f} tok/s against {old:.1f}, {needed:.1f} are needed"


_MEASURED: tuple[tuple[Verdict, Gate], ...] = (
    (Verdict.ERROR_RATE_WORSE, _error_rate),
    (Verdict.QUEUE_WAIT_WORSE, _queue_wait),
    (Verdict.TOKENS_PER_SECOND_WORSE, _speed),
)


def quality_loss(golden: Sequence[GoldenPrompt], evidence: Evidence) -> float | None:
    """Mean over all golden prompts, nats a token. None without any, or while one has no score yet."""
    losses = {score.key: score.loss for score in evidence.scores}
    wanted = [key(prompt) for prompt in golden]
    if not wanted or not losses.keys() >= set(wanted):
        return None
    return sum(losses[key] for key in wanted) / len(wanted)


def _has_samples(gates: Gates) -> bool:
    return min(gates.evidence.stable.requests, gates.evidence.canary.requests) >= _needed(gates.policy)


def _needed(policy: Canary) -> int:
    """Requests. Those that ask for golden scores are among what the servers count, and nobody waited for them."""
    return policy.min_samples + len(policy.golden)


def _missing(gates: Gates) -> list[str]:
    """What promotion still waits for. A number that only one side has is no evidence."""
    policy, evidence = gates.policy, gates.evidence
    missing = []
    if not _has_samples(gates):
        counts = f"{evidence.canary.requests:.0f} requests of the new revision and {evidence.stable.requests:.0f}"
        missing.append(f"{counts} of the old one have ended, {_needed(policy)} of each are needed")
    missing += [f"only one revision has {what}" for what, values in _measured(evidence) if values.count(None) == 1]
    ready = 0.0 if evidence.ready_since is None else gates.now - evidence.ready_since
    if ready < policy.min_duration:
        kind = "shadow" if gates.is_shadow else "canary"
        missing.append(f"all {kind} pods have been ready for {ready:.0f} s of {policy.min_duration:g} s")
    if gates.obstacle:
        missing.append(gates.obstacle)
    if policy.golden and quality_loss(policy.golden, evidence) is None:
        missing.append("golden prompts are not all answered")
    return missing


def _measured(evidence: Evidence) -> tuple[tuple[str, tuple[float | None, float | None]], ...]:
    old, new = evidence.stable, evidence.canary
    return (
        ("a queue wait", (old.queue_wait_p95, new.queue_wait_p95)),
        ("generated tokens", (old.tokens_per_second, new.tokens_per_second)),
    )


def _comparison(evidence: Evidence) -> str:
    return f"new revision: {_told(evidence.canary)}; old revision: {_told(evidence.stable)}"


def _told(tally: Tally) -> str:
    parts = [f"{tally.requests:.0f} requests", f"{tally.error_rate or 0.0:.2%} failed"]
    if tally.queue_wait_p95 is not None:
        parts.append(f"p95 wait {milliseconds(tally.queue_wait_p95)}")
    if tally.tokens_per_second is not None:
        parts.append(f"{tally.tokens_per_second:.1f} tok/s a request")
    return ", ".join(parts)
