"""Everything that Kopf calls: watch events go into the store, and nothing else happens here.

Only low-level event handlers: Kopf writes no finalizer, no annotation and no event of its own. It runs in its own
thread, because it cancels the tasks of a loop that it shares.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from headrace_operator.decide import manifests, routing
from headrace_operator.settings import REQUEST_TIMEOUT
from headrace_operator.store import Store

PLURAL = "inferencedeployments"


def nobody(resource: str) -> None:
    """Hears of events where nobody counts them."""
    del resource


def registry(
    store: Store,
    connect: Callable[[], kopf.ConnectionInfo],
    *,
    watch_nodes: bool = False,
    heard: Callable[[str], None] = nobody,
) -> kopf.OperatorRegistry:
    """Handlers that feed `store`. `connect` is called at the start and after every 401; `heard` of each event."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.peering.standalone = True  # the Lease elects the leader
        settings.posting.enabled = False  # our own recorder counts and limits
        settings.scanning.disabled = True  # no watch of CRDs and namespaces, hence no right to them
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 330
        settings.watching.inactivity_timeout = 70  # the API server sends a bookmark every minute
        settings.watching.chunk_size = 100
        settings.queueing.idle_timeout = 0.2  # s in which a whole event is held after its work: 60 kB of a pod
        settings.networking.connect_timeout = REQUEST_TIMEOUT
        settings.networking.request_timeout = 30  # of a list's page; the relist has its own
        settings.networking.error_backoffs = Patience()
        settings.networking.enforce_retry_after = True
        settings.process.ultimate_exiting_timeout = 10
        settings.persistence.diffbase_storage = NoDifferences()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connect()

    @kopf.on.event(manifests.GROUP, manifests.VERSION, PLURAL, registry=handlers)
    async def object_changed(event: kopf.RawEvent, **_: Any) -> None:
        heard(PLURAL)
        store.put_object(event["object"], is_gone=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", labels={manifests.DEPLOYMENT_LABEL: kopf.PRESENT}, registry=handlers)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:
        heard("pods")
        store.put_pod(event["object"], is_gone=event["type"] == "DELETED")

    @kopf.on.event(
        "apps", "v1", "controllerrevisions", labels={manifests.DEPLOYMENT_LABEL: kopf.PRESENT}, registry=handlers
    )
    async def revision_changed(event: kopf.RawEvent, **_: Any) -> None:
        heard("controllerrevisions")
        store.put_revision(event["object"], is_gone=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", labels={routing.ROUTER_LABEL: kopf.PRESENT}, registry=handlers)
    async def router_changed(event: kopf.RawEvent, **_: Any) -> None:
        heard("pods")
        store.put_router(event["object"], is_gone=event["type"] == "DELETED")

    if watch_nodes:

        @kopf.on.event("", "v1", "nodes", registry=handlers)
        async def node_changed(event: kopf.RawEvent, **_: Any) -> None:
            heard("nodes")
            store.put_node(event["object"], is_gone=event["type"] == "DELETED")

    return handlers


class NoDifferences(kopf.DiffBaseStorage):
    """Kopf compares each object with how it last was, for handlers of changes. We have none, and copies cost."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        del body, extra_fields
        return {}

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept on the object."""


class Patience:
    """Kopf ends the whole operator when these are used up. An API server that fails is no reason to: they never are."""

    def __iter__(self) -> Iterator[float]:
        return chain((1.0, 2.0, 4.0), repeat(8.0))


class Watches:
    """Kopf in its own thread, as a `with` block."""

    def __init__(self, handlers: kopf.OperatorRegistry, namespaces: tuple[str, ...]) -> None:
        self._handlers = handlers
        self._namespaces = namespaces
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self.failure: BaseException | None = None

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> "Watches":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
        where = {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        try:
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                loop.run_until_complete(
                    kopf.operator(registry=self._handlers, stop_flag=self._stop, standalone=True, **where)
                )
        except BaseException as error:
            self.failure = error
            raise
