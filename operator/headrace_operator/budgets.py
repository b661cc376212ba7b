"""Who holds how much of a namespace's GPU budget, as decided last: what is ordered counts before its pods exist."""

from collections.abc import Mapping
from dataclasses import replace

from headrace_operator.decide import budget, schedules
from headrace_operator.decide.budget import Holding
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import InferenceDeployment
from headrace_operator.store import Store
from headrace_operator.work_queue import Key


class Budgets:
    def __init__(self, gpus: Mapping[str, int], store: Store) -> None:
        """`gpus`: by namespace. A namespace that is not named has no budget."""
        self._gpus = gpus
        self._store = store
        self._holdings: dict[Key, Holding] = {}

    def cap(self, deployment: InferenceDeployment, seen: Observed, now: float) -> int | None:
        """The most replicas that the budget allows. Say what was `ordered` before the next await."""
        limit = self._gpus.get(deployment.namespace)
        if limit is None:
            return None
        key = (deployment.namespace, deployment.name)
        self._holdings[key] = own = _holding(deployment, seen, now)
        known = self._store.keys()
        others = [other for other in known if other != key and other[0] == deployment.namespace]
        return budget.cap(limit, own, map(self._of, others))

    def ordered(self, key: Key, replicas: int) -> None:
        if known := self._holdings.get(key):
            self._holdings[key] = replace(known, replicas=max(known.replicas, replicas))

    def forget(self, key: Key) -> None:
        self._holdings.pop(key, None)

    def _of(self, key: Key) -> Holding:
        """Of one that was not looked at yet, what the API server says: a restart must not give its GPUs away."""
        if known := self._holdings.get(key):
            return known
        body, pods = self._store.object(key) or {}, self._store.pods(key)
        spec = body.get("spec", {})
        return Holding(
            gpus=spec.get("resources", {}).get("gpus", 0),
            min_replicas=spec.get("autoscaling", {}).get("minReplicas", 1),
            replicas=max(len(pods), body.get("status", {}).get("desiredReplicas", 0)),
        )


def _holding(deployment: InferenceDeployment, seen: Observed, now: float) -> Holding:
    present = sum(pod.phase is not PodPhase.LOST for pod in seen.pods)
    return Holding(
        gpus=deployment.resources.gpus,
        min_replicas=schedules.bounds(deployment.scaling, now).min_replicas,
        replicas=len(seen.live),
        beside=max(present - len(seen.live), deployment.scaling.warm_standby),  # wanted standby keeps its place
    )
