"""Is anybody asking? What the last replica's leave, and nothing else, is decided on."""

from headrace_operator.decide.values import Observed


def may_be_busy(observed: Observed) -> bool:
    """Has somebody a request, or was somebody not heard who may have one? Unknown is not zero.

    A start that goes on counts as well: what comes from zero for a request is not called idle before it has served it.
    And without a router nobody would hold the next request.
    """
    routers = [router for router in observed.routers if router.is_ready]
    if not routers or any(router.sample is None or router.sample.held for router in routers):
        return True
    ready = observed.ready
    if not ready or len(ready) < len(observed.live):
        return True
    samples = [pod.sample for pod in ready]
    return any(sample is None or sample.running or sample.waiting for sample in samples)
