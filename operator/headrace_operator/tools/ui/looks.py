"""Looks at the cluster again and again, and remembers the last half hour for the charts. Only ever reads."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from headrace_operator import kube
from headrace_operator.decide.manifests import KIND
from headrace_operator.kube import Body, Kube, KubeError
from headrace_operator.tools.connection import remedy
from headrace_operator.tools.ui.readings import number, seconds
from headrace_operator.tools.ui.values import Look, Point, Problem, belongs_to

SPACING = 5.0  # seconds between two points of a chart; a change of replicas is noted at once
KEPT = 360  # points of one deployment: half an hour
OF_DEPLOYMENTS = f"involvedObject.kind={KIND}"
K = TypeVar("K", bound=Hashable)


class Looks:
    def __init__(
        self, api: Kube, namespace: str | None, server: str, clock: Callable[[], float], interval: float = 2.0
    ) -> None:
        """`namespace`: None = all. `clock` gives epoch seconds. `interval`: from the end of a look to the next one."""
        self._api = api
        self._clock = clock
        self._history: dict[str, deque[Point]] = {}
        self._looked = asyncio.Condition()
        self.latest = Look(at=clock(), number=0, server=server, namespace=namespace, interval=interval)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self.latest.interval)

    async def after(self, seen: int) -> Look:
        """The first look with a higher number than `seen`."""
        async with self._looked:
            await self._looked.wait_for(lambda: self.latest.number > seen)
        return self.latest

    async def look(self) -> None:
        before, now = self.latest, self._clock()
        following = replace(before, at=now, number=before.number + 1)
        try:
            objects = await self._list(kube.objects(before.namespace))
        except KubeError as error:
            since = before.problem.since if before.problem else now
            following = replace(following, problem=Problem(str(error), remedy(error, before.server), since), notes=())
        else:
            following = await self._beside(replace(following, objects=objects, problem=None), now)
        async with self._looked:
            self.latest = following
            self._looked.notify_all()

    async def _beside(self, look: Look, now: float) -> Look:
        """Pods and events: without the right to see them, the rest is still worth seeing."""
        notes: list[str] = []
        pods = await self._try("pods", notes, kube.pods(look.namespace), labelSelector=kube.OWN_PODS)
        events = await self._try("events", notes, _events(look.namespace), fieldSelector=OF_DEPLOYMENTS)
        self._remember(look.objects, now)
        return replace(
            look,
            pods=_grouped(pods, belongs_to),
            events=_grouped(events, lambda event: str(event["involvedObject"].get("uid"))),
            history={uid: tuple(points) for uid, points in self._history.items()},
            notes=tuple(notes),
        )

    async def _list(self, path: str, **query: str) -> list[Body]:
        return [item async for page in self._api.pages(path, **query) for item in page["items"]]

    async def _try(self, what: str, notes: list[str], path: str, **query: str) -> list[Body]:
        try:
            return await self._list(path, **query)
        except KubeError as error:
            notes.append(f"Without {what}: {remedy(error, self.latest.server)}")
            return []

    def _remember(self, objects: Iterable[Mapping[str, Any]], now: float) -> None:
        points = {body["metadata"]["uid"]: point(body, now) for body in objects}
        for gone in self._history.keys() - points.keys():
            del self._history[gone]
        for uid, new in points.items():
            kept = self._history.setdefault(uid, deque(maxlen=KEPT))
            if not kept or new.at - kept[-1].at >= SPACING or new[3:] != kept[-1][3:]:
                kept.append(new)


def point(body: Mapping[str, Any], now: float) -> Point:
    """What is remembered of an InferenceDeployment."""
    status = body.get("status", {})
    wait, tokens = seconds(status.get("queueWaitP95")), number(status.get("tokensPerSecond"))
    return Point(round(now, 1), wait, tokens, status.get("readyReplicas"), status.get("desiredReplicas"))


def _events(namespace: str | None) -> str:
    return kube.events(namespace) if namespace else "/api/v1/events"


def _grouped(bodies: Iterable[Body], key: Callable[[Body], K]) -> dict[K, list[Body]]:
    groups: dict[K, list[Body]] = defaultdict(list)
    for body in bodies:
        groups[key(body)].append(body)
    return dict(groups)
