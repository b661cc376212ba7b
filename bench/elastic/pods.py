"""When a deployment's pods came, left the Service and were gone, by the clock of whoever measures."""

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster import LocalCluster

LONGEST = 3600  # seconds that one measurement may take
LOOK = 0.02  # seconds
ROUTABLE = "headrace.dev/routable"


@dataclass(slots=True)
class Life:
    """Of one pod. Times are time.monotonic(), seconds; None: not yet."""

    uid: str
    name: str  # used again by a later pod
    came: float
    address: str = ""
    left_service: float | None = None
    gone: float | None = None


class Lives:
    """All pods of a deployment."""

    def __init__(self) -> None:
        self._by_uid: dict[str, Life] = {}
        self.broken: OSError | None = None

    def all(self) -> list[Life]:
        """Raises OSError when the watch broke: what it missed cannot be told."""
        if self.broken:
            raise self.broken
        return list(self._by_uid.values())

    def present(self) -> list[Life]:
        return [life for life in self.all() if life.gone is None]

    def unrouted(self) -> list[Life]:
        """Those that left the Service, gone or not."""
        return [life for life in self.all() if life.left_service is not None]

    def note(self, kind: str, body: dict[str, Any], now: float) -> None:
        """One watch event."""
        metadata = body["metadata"]
        life = self._by_uid.setdefault(metadata["uid"], Life(metadata["uid"], metadata["name"], now))
        life.address = body.get("status", {}).get("podIP", "") or life.address
        if metadata["labels"].get(ROUTABLE) == "false" and life.left_service is None:
            life.left_service = now
        if kind == "DELETED":
            life.gone = now


def follow(cluster: LocalCluster, deployment: str) -> Lives:
    """By a watch in a thread of its own, so that a busy event loop delays no time stamp by a turn."""
    lives = Lives()

    def run() -> None:
        pods, query = "/api/v1/namespaces/default/pods", f"headrace.dev/deployment={deployment}"
        try:
            for kind, body in cluster.api.watch(pods, seconds=LONGEST, labelSelector=query):
                lives.note(kind, body, time.monotonic())
        except OSError as error:
            lives.broken = error

    threading.Thread(target=run, name="watch", daemon=True).start()
    return lives


def running(life: Life) -> float:
    """Requests in this pod's steps now. Raises OSError when it does not answer."""
    with urllib.request.urlopen(f"http://{life.address}:9090/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("headrace_requests_running "))


async def until(what: str, is_true: Callable[[], bool], *, within: float) -> None:
    """Looks often: what it waits for is seen by a watch, and costs nothing to ask. Raises TimeoutError."""
    began = time.monotonic()
    while not is_true():
        if time.monotonic() - began > within:
            raise TimeoutError(f"{what}: not within {within:.0f} s")
        await asyncio.sleep(LOOK)
