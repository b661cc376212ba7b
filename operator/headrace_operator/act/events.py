"""Kubernetes events on the custom resource: repeated ones are counted, and an object cannot flood the API server."""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Protocol

from headrace_operator import kube
from headrace_operator.decide import manifests
from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.reasons import Announcement, Reason
from headrace_operator.kube import Kube, KubeError
from headrace_operator.metrics import OperatorMetrics

logger = logging.getLogger(__name__)

BURST = 25.0  # events of one object at once, as in client-go's spam filter
REFILL = 25.0 / 300  # per second: generous against decisions, tight against a loop
SERIES = 600.0  # seconds within which the same event is counted instead of written anew


class About(Protocol):
    """What an event is about."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class _Series:
    count: int
    first: float
    last: float
    name: str


class Recorder:
    def __init__(self, api: Kube, metrics: OperatorMetrics, identity: str) -> None:
        self._api = api
        self._metrics = metrics
        self._identity = identity
        self._buckets: dict[str, _Bucket] = {}  # by object UID
        self._series: dict[tuple[str, str, str], _Series] = {}  # by object UID, reason, message

    async def record(
        self, about: About, reason: Reason | Announcement, message: str, *, now: float, is_warning: bool = False
    ) -> None:
        """Never raises for an API error: an event that is lost is logged, the decision stands in the status."""
        if not self._allowed(about.uid, now):
            self._metrics.events_dropped.labels(about.namespace, about.name).inc()
            return
        key = (about.uid, str(reason), message)
        known = self._series.pop(key, None)  # back once it is written: what was lost cannot be counted on
        try:
            if known and now - known.last < SERIES:
                series = replace(known, count=known.count + 1, last=now)
                change = {"count": series.count, "lastTimestamp": timestamp(now)}
                await self._api.merge(kube.events(about.namespace, series.name), change)
            else:
                series = _Series(1, now, now, _name(about, reason, message, now))
                body = self._body(about, reason, message, series, is_warning=is_warning)
                await self._api.create(kube.events(about.namespace), body)
        except KubeError as error:
            logger.warning("event %s of %s/%s is lost: %s", reason, about.namespace, about.name, error)
        else:
            self._series[key] = series

    def forget(self, uid: str) -> None:
        self._buckets.pop(uid, None)
        self._series = {key: series for key, series in self._series.items() if key[0] != uid}

    def _allowed(self, uid: str, now: float) -> bool:
        bucket = self._buckets.setdefault(uid, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) * REFILL)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _body(
        self, about: About, reason: Reason | Announcement, message: str, series: _Series, *, is_warning: bool
    ) -> kube.Body:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": about.namespace},
            "involvedObject": {
                "apiVersion": f"{manifests.GROUP}/{manifests.VERSION}",
                "kind": manifests.KIND,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "reason": str(reason),
            "message": message[:1024],
            "type": "Warning" if is_warning else "Normal",
            "count": series.count,
            "firstTimestamp": timestamp(series.first),
            "lastTimestamp": timestamp(series.last),
            "source": {"component": "headrace-operator"},
            "reportingComponent": "headrace.dev/operator",
            "reportingInstance": self._identity,
        }


def _name(about: About, reason: Reason | Announcement, message: str, now: float) -> str:
    digest = hashlib.sha256(f"{about.uid} {reason} {message} {now}".encode()).hexdigest()[:16]
    return f"{about.name}.{digest}"
