"""The operator's process: watches fill the store, the leader reconciles, everything ends together."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry, ProcessCollector

from headrace_operator import api_calls, kube, series
from headrace_operator.act.drainer import Drainer
from headrace_operator.act.events import Recorder
from headrace_operator.budgets import Budgets
from headrace_operator.decide.routing import RouterParts
from headrace_operator.errors import LeaseLost, WatchesEnded
from headrace_operator.handlers import Watches, registry
from headrace_operator.heartbeat import alert_round, calm_round
from headrace_operator.kube import Kube, KubeError
from headrace_operator.lease import Lease
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.observe.conflicts import Autoscalers
from headrace_operator.observe.golden import GoldenProbe
from headrace_operator.observe.routers import RouterScraper
from headrace_operator.observe.scrape import Failure, Scraper
from headrace_operator.observe.standing import Standing
from headrace_operator.pace import Pace
from headrace_operator.probes import serve, trouble
from headrace_operator.reconcile import Reconciler
from headrace_operator.settings import RELIST, SCRAPE_TIMEOUT, Settings
from headrace_operator.store import Store
from headrace_operator.work_queue import Key, WorkQueue

logger = logging.getLogger(__name__)


def wall_clock() -> float:
    return time.time()  # noqa: TID251 - the edge that reads the clock


def lease_clock() -> float:
    """Seconds that go on while the machine sleeps: a virtual machine that was paused must know that it was."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Process:
    """`run` returns when cancelled, and raises when this process must be restarted."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._prometheus = CollectorRegistry()
        ProcessCollector(registry=self._prometheus)  # memory, CPU, open files
        self._metrics = OperatorMetrics(self._prometheus)
        self._listed = False
        self._turned_at = time.monotonic()
        self._pace = Pace(settings.interval)

    async def run(self) -> None:
        settings = self._settings
        configured = await kube.configuration(settings, self._environ)
        loop = asyncio.get_running_loop()
        heard = partial(api_calls.count, self._metrics)
        async with Kube(configured, heard=heard) as api, _pods_session() as session:
            store = Store(lambda key, is_asked: _soon(loop, queue, key, is_asked))
            scraper = Scraper(session, SCRAPE_TIMEOUT, wall_clock, self._scrape_failed)
            router_scraper = RouterScraper(session, SCRAPE_TIMEOUT, wall_clock, self._scrape_failed)
            place = (settings.lease_namespace, settings.lease_name)
            lease = Lease(api, place, settings.identity, clock=lease_clock, wall_clock=wall_clock)
            leading = api.guarded(lease.check)  # nothing is written after our Lease may be another's
            recorder = Recorder(leading, self._metrics, settings.identity)
            autoscalers = Autoscalers(api, settings.namespaces)
            golden = GoldenProbe(session, wall_clock)
            standing = Standing(api, settings.namespaces)
            work = Reconciler(
                leading,
                store,
                autoscalers=autoscalers,
                scraper=scraper,
                router_scraper=router_scraper,
                recorder=recorder,
                drainer=Drainer(session, SCRAPE_TIMEOUT),
                golden=golden,
                metrics=self._metrics,
                budgets=Budgets(settings.gpu_budgets, store),
                standing=standing,
                pace=self._pace,
                image=settings.server_image,
                gate_keys=settings.gate_keys,
                router=RouterParts(settings.router_image, settings.router_role),
                clock=wall_clock,
            )
            queue = WorkQueue(self._only_as_leader(work, lease), work.announce_failure)
            handlers = registry(
                store,
                lambda: kube.kopf_connection(configured, settings),
                watch_nodes=settings.watch_nodes,
                heard=self._heard,
            )
            with Watches(handlers, settings.namespaces) as watches:
                probes = await serve(
                    settings.host,
                    settings.http_port,
                    self._prometheus,
                    lambda: self._trouble(watches),
                    lambda: self._listed,
                )
                try:
                    others = (self._lead(lease, work), autoscalers.run(), standing.run())
                    await self._work(watches, api, store, queue, *others)
                finally:
                    await queue.close()
                    await golden.close()
                    await scraper.close()
                    await router_scraper.close()
                    await probes.cleanup()

    async def _work(
        self, watches: Watches, api: Kube, store: Store, queue: WorkQueue, *others: Coroutine[Any, Any, None]
    ) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relist(api, store), name="relist")
            group.create_task(self._turn(watches, store, queue), name="turn")
            group.create_task(self._turn_to_the_alert(store, queue), name="alert")
            for other in others:
                group.create_task(other)

    async def _lead(self, lease: Lease, work: Reconciler) -> None:
        """Leader, then standby with warm caches, then leader again: an API server that was away ends no process."""
        try:
            while True:
                await lease.acquire()
                self._metrics.is_leader.set(1)
                try:
                    await lease.hold()
                except LeaseLost as lost:
                    logger.warning("standing by: %s", lost)
                    self._metrics.is_leader.set(0)
                    work.resign()
        finally:
            self._metrics.is_leader.set(0)
            await lease.release()

    def _only_as_leader(self, work: Reconciler, lease: Lease) -> Any:
        looked: dict[Key, float] = {}  # loop time of the last look

        async def reconcile(key: Key) -> None:
            if not (lease.is_held and self._listed):
                looked.clear()  # whoever leads now looks
                return
            now = time.monotonic()
            if (before := looked.get(key)) is not None:
                self._metrics.look_interval_seconds.observe(now - before)
            looked[key] = now
            try:
                await work.reconcile(key)
            finally:
                if not lease.is_held:  # what this look told, another tells from now on
                    self._metrics.forget(*key)

        return reconcile

    async def _turn(self, watches: Watches, store: Store, queue: WorkQueue) -> None:
        """Raises WatchesEnded when changes are not heard any more."""
        while True:
            self._turned_at = time.monotonic()
            if not watches.is_running:
                raise WatchesEnded(f"{watches.failure!r}")
            keys = store.keys()
            self._metrics.known.set(len(keys))
            series.tell_backlog(self._metrics, queue.backlog)
            await calm_round(self._pace, keys, queue.mark)

    async def _turn_to_the_alert(self, store: Store, queue: WorkQueue) -> None:
        while True:
            await alert_round(self._pace, len(store.keys()), queue.mark)

    async def _relist(self, api: Kube, store: Store) -> None:
        """A watch that went silent is repaired by a full list; the first one makes this process ready."""
        while True:
            try:
                await self._list(api, store)
                if self._settings.watch_nodes:
                    store.replace_nodes([node async for page in api.pages(kube.nodes()) for node in page["items"]])
                self._listed = True
                self._metrics.listed_at.set(wall_clock())
            except KubeError as error:
                logger.warning("cannot list: %s: %s", type(error).__name__, error)
            await asyncio.sleep(RELIST if self._listed else 1.0)

    async def _list(self, api: Kube, store: Store) -> None:
        """Page by page: thousands of pods are never in memory twice. Children first: a look needs all of them."""
        listed: set[str] = set()
        versions = []
        for namespace in self._settings.namespaces or (None,):
            for path, put, query in (
                (kube.revisions(namespace), store.put_revision, {"labelSelector": kube.OWN_PODS}),
                (kube.pods(namespace), store.put_own, {"labelSelector": kube.OWN_PODS}),
                (kube.objects(namespace), store.put_object, {}),
            ):
                repairs = self._metrics.list_repairs.labels(api_calls.resource(path))
                async for page in api.pages(path, **query):
                    versions.append(int(page["metadata"]["resourceVersion"]))
                    for body in page["items"]:
                        listed.add(body["metadata"]["uid"])
                        repairs.inc(put(body) and self._listed)  # at the first list, everything is news
        for resource, gone in store.keep(listed, min(versions)).items():
            self._metrics.list_repairs.labels(resource).inc(gone)

    def _heard(self, resource: str) -> None:
        self._metrics.watch_event_at.labels(resource).set(wall_clock())

    def _scrape_failed(self, failure: Failure) -> None:
        self._metrics.scrape_errors.labels(failure).inc()

    def _trouble(self, watches: Watches) -> str | None:
        ended = None if watches.is_running else repr(watches.failure)
        return trouble(time.monotonic() - self._turned_at, ended)


def _pods_session() -> aiohttp.ClientSession:
    """One connection for each pod; no limit, because pods that hang must not stand in the way of others."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())


def _soon(loop: asyncio.AbstractEventLoop, queue: WorkQueue, key: Key, is_asked: bool) -> None:
    """Marks from any thread; a loop that is closing needs no more work."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(partial(queue.mark, key, is_asked=is_asked))
