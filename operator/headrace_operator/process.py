"""The operator's process: watches fill the store, the leader reconciles, everything ends together."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from headrace_operator import kube
from headrace_operator.act.events import Recorder
from headrace_operator.handlers import Watches, registry
from headrace_operator.kube import Kube, KubeError
from headrace_operator.lease import Lease
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.observe.scrape import Scraper
from headrace_operator.probes import serve
from headrace_operator.reconcile import Reconciler
from headrace_operator.settings import RELIST, SCRAPE_TIMEOUT, Settings
from headrace_operator.store import Store
from headrace_operator.work_queue import Key, WorkQueue

logger = logging.getLogger(__name__)
SILENCE = 60.0  # seconds without a turn of the loop, after which /healthz asks for a restart


def wall_clock() -> float:
    return time.time()  # noqa: TID251 - the edge that reads the clock


class Process:
    """`run` returns when cancelled, and raises when this process must be restarted."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._prometheus = CollectorRegistry()
        self._metrics = OperatorMetrics(self._prometheus)
        self._listed = False
        self._turned_at = time.monotonic()

    async def run(self) -> None:
        settings = self._settings
        configured = await kube.configuration(settings, self._environ)
        loop = asyncio.get_running_loop()
        async with Kube(configured) as api, aiohttp.ClientSession() as session:
            store = Store(lambda key: _soon(loop, queue, key))
            scraper = Scraper(session, SCRAPE_TIMEOUT, wall_clock)
            recorder = Recorder(api, self._metrics, settings.identity)
            work = Reconciler(
                api,
                store,
                scraper=scraper,
                recorder=recorder,
                metrics=self._metrics,
                image=settings.server_image,
                clock=wall_clock,
            )
            place = (settings.lease_namespace, settings.lease_name)
            lease = Lease(api, place, settings.identity, clock=time.monotonic, wall_clock=wall_clock)
            queue = WorkQueue(self._only_as_leader(work), work.announce_failure)
            handlers = registry(store, lambda: kube.kopf_connection(configured, settings))
            with Watches(handlers, settings.namespaces) as watches:
                probes = await serve(
                    settings.host,
                    settings.http_port,
                    self._prometheus,
                    lambda: self._trouble(watches),
                    lambda: self._listed,
                )
                try:
                    await self._work(api, store, queue, lease)
                finally:
                    await queue.close()
                    await probes.cleanup()

    async def _work(self, api: Kube, store: Store, queue: WorkQueue, lease: Lease) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relist(api, store), name="relist")
            group.create_task(self._turn(store, queue), name="turn")
            group.create_task(self._lead(lease), name="lease")

    async def _lead(self, lease: Lease) -> None:
        await lease.acquire()
        self._metrics.is_leader.set(1)
        try:
            await lease.hold()
        finally:
            self._metrics.is_leader.set(0)
            await lease.release()

    def _only_as_leader(self, work: Reconciler) -> Any:
        async def reconcile(key: Key) -> None:
            if self._is_leader and self._listed:
                await work.reconcile(key)

        return reconcile

    @property
    def _is_leader(self) -> bool:
        return self._prometheus.get_sample_value("headrace_operator_is_leader") == 1

    async def _turn(self, store: Store, queue: WorkQueue) -> None:
        """The heartbeat: every object, every interval, whatever the watches say."""
        while True:
            self._turned_at = time.monotonic()
            keys = store.keys()
            self._metrics.known.set(len(keys))
            for key in keys:
                queue.mark(key)
            await asyncio.sleep(self._settings.interval)

    async def _relist(self, api: Kube, store: Store) -> None:
        """A watch that went silent is repaired by a full list; the first one makes this process ready."""
        while True:
            try:
                store.replace(*await self._list(api))
                self._listed = True
            except (KubeError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("cannot list: %s: %s", type(error).__name__, error)
            await asyncio.sleep(RELIST if self._listed else 1.0)

    async def _list(self, api: Kube) -> tuple[list[kube.Body], list[kube.Body], list[kube.Body], int]:
        """All objects, all their pods and revisions, and the resourceVersion of the oldest of these lists."""
        objects: list[kube.Body] = []
        pods: list[kube.Body] = []
        revisions: list[kube.Body] = []
        versions = []
        for namespace in self._settings.namespaces or (None,):
            for path, found in (
                (kube.objects(namespace), objects),
                (kube.pods(namespace), pods),
                (kube.revisions(namespace), revisions),
            ):
                query = {} if found is objects else {"labelSelector": kube.OWN_PODS}
                answer = await api.get(path, **query)
                found.extend(answer["items"])
                versions.append(int(answer["metadata"]["resourceVersion"]))
        return objects, pods, revisions, min(versions)

    def _trouble(self, watches: Watches) -> str | None:
        if not watches.is_running:
            return f"the watches ended: {watches.failure!r}"
        silent = time.monotonic() - self._turned_at
        return f"no turn for {silent:.0f} s" if silent > SILENCE else None


def _soon(loop: asyncio.AbstractEventLoop, queue: WorkQueue, key: Key) -> None:
    """Marks from any thread; a loop that is closing needs no more work."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.mark, key)
