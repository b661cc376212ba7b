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
        return budget.cap(limit, own, self._others(key))

    def standby_room(self, key: Key) -> int | None:
        """How many more standby pods it allows, once this tick's replicas were `ordered`."""
        limit, own = self._gpus.get(key[0]), self._holdings.get(key)
        return None if limit is None or own is None else budget.standby_room(limit, own, self._others(key))

    def ordered(self, key: Key, replicas: int = 0, *, standby: int = 0, shadows: int = 0) -> None:
        """`replicas`: altogether; `standby` and `shadows`: pods that will be made."""
        if known := self._holdings.get(key):
            wanting = max(0, known.wanting - standby)
            beside, replicas = known.beside + shadows, max(known.replicas, replicas)
            self._holdings[key] = replace(known, replicas=replicas, beside=beside, wanting=wanting)

    def forget(self, key: Key) -> None:
        self._holdings.pop(key, None)

    def _others(self, key: Key) -> list[Holding]:
        known = self._store.keys()
        return [self._of(other) for other in known if other != key and other[0] == key[0]]

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
    present = sum(pod.phase is not PodPhase.LOST for pod in seen.everybody)
    wanting = max(0, deployment.scaling.warm_standby - len(seen.standby))
    return Holding(
        gpus=deployment.resources.gpus,
        min_replicas=schedules.bounds(deployment.scaling, now).min_replicas,
        replicas=len(seen.live),
        beside=present - len(seen.live) + wanting,  # wanted standby keeps its place
        wanting=wanting,
    )
