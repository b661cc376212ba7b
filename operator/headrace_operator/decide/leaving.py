"""How a pod leaves: out of the Service, told to drain over the server's own call, deleted when its last answer is out.

Unroute ─ ROUTE_SETTLE ─► Drain (POST /drain, again at every tick) ─ drained, or drain.timeout ─► DeletePod
"""

from headrace_operator.decide.actions import Action, DeletePod, Drain
from headrace_operator.decide.values import Observed, PodPhase, PodState

ROUTE_SETTLE = 3.0  # seconds between leaving the Service and /drain: routers learn of it meanwhile
SILENT = 10.0  # seconds unrouted after which a pod that answers no scrape is left to SIGTERM, which drains as well
SERVED = {PodPhase.READY, PodPhase.UNREADY, PodPhase.DEVICE_MISMATCH}  # phases in which requests may be inside


def leave(observed: Observed, drain_timeout: float, now: float) -> list[Action]:
    """For pods that will never run again, and for unrouted ones."""
    actions: list[Action] = []
    for pod in observed.pods:
        if pod.phase is PodPhase.LOST:
            actions.append(DeletePod(pod.name, pod.uid, f"lost: {pod.message}"))
        elif pod.is_draining:
            actions += _drain(pod, drain_timeout, now)
    return actions


def _drain(pod: PodState, timeout: float, now: float) -> list[Action]:
    """A pod without the time of its unrouting was unrouted by somebody else, long enough ago."""
    unrouted_at = pod.unrouted_at or 0.0
    waited = now - unrouted_at
    if waited < ROUTE_SETTLE:
        return []
    if why := _done(pod, unrouted_at + ROUTE_SETTLE) or _given_up(pod, waited, timeout):
        return [DeletePod(pod.name, pod.uid, why)]
    return [Drain(pod.name, pod.uid, pod.address, pod.admin_port)] if pod.address else []


def cut_off(observed: Observed, drain_timeout: float, now: float) -> frozenset[str]:
    """UIDs of pods that `leave` deletes with requests inside, because drain.timeout has passed."""
    return frozenset(
        pod.uid
        for pod in observed.pods
        if pod.is_draining
        and _is_overdue(now - (pod.unrouted_at or 0.0), drain_timeout)
        and not _done(pod, (pod.unrouted_at or 0.0) + ROUTE_SETTLE)
    )


def _is_overdue(waited: float, timeout: float) -> bool:
    return waited >= max(timeout, ROUTE_SETTLE)


def _done(pod: PodState, settled_at: float) -> str | None:
    """Why nothing is inside. Only a sample from after the routers knew can say so."""
    if pod.phase not in SERVED:
        return "serves nobody"
    sample = pod.sample
    if sample is None or sample.at < settled_at:
        return None
    is_empty = sample.drained if sample.drained is not None else sample.running + sample.waiting == 0
    return "drained: no request is inside" if is_empty else None


def _given_up(pod: PodState, waited: float, timeout: float) -> str | None:
    if _is_overdue(waited, timeout):
        inside = pod.sample.running + pod.sample.waiting if pod.sample else "an unknown number of"
        return f"drain.timeout of {timeout:g} s has passed with {inside} requests inside"
    if pod.sample is None and waited >= SILENT:
        return f"answers nothing {waited:.0f} s after it left the Service; SIGTERM drains it"
    return None
