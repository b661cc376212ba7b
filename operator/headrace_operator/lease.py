"""Leader election on a coordination.k8s.io Lease: one operator writes, the others stand by with warm caches.

The rules of client-go: a holder's Lease is expired when it has not changed for its duration by *our* clock (clocks of
hosts differ); a holder that cannot renew in time stops by itself. resourceVersion decides races.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace_operator import kube
from headrace_operator.errors import LeaseLost
from headrace_operator.kube import Kube, KubeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds, as in client-go."""

    duration: float = 15.0  # others may take over after this
    renew_within: float = 10.0  # the holder gives up after this
    retry: float = 2.0


class Lease:
    def __init__(
        self,
        api: Kube,
        place: tuple[str, str],
        identity: str,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        terms: Terms | None = None,
    ) -> None:
        """`place`: (namespace, name). `clock` is monotonic; `wall_clock` is only for the times that people read."""
        self._api = api
        self._namespace, self._name = place
        self._identity = identity
        self._clock = clock
        self._wall_clock = wall_clock
        self._terms = terms or Terms()
        self._seen: tuple[str | None, float] = (None, 0.0)  # resourceVersion, our clock when it appeared

    async def acquire(self) -> None:
        """Returns when this process leads."""
        while not await self._try():  # noqa: ASYNC110 - the event would be on another machine
            await asyncio.sleep(self._terms.retry)
        logger.info("leading as %s", self._identity)

    async def hold(self) -> None:
        """Renews for ever. Raises LeaseLost when another holds it, or when no renewal got through in time."""
        renewed = self._clock()
        while True:
            await asyncio.sleep(self._terms.retry)
            remaining = self._terms.renew_within - (self._clock() - renewed)
            try:
                held = await asyncio.wait_for(self._try(), max(remaining, 0.1))
            except (TimeoutError, OSError, KubeError) as error:
                logger.warning("cannot renew the Lease: %s: %s", type(error).__name__, error)
                held = False
            if held:
                renewed = self._clock()
            elif self._clock() - renewed >= self._terms.renew_within:
                raise LeaseLost(f"lease {self._namespace}/{self._name}: not renewed for {self._terms.renew_within:g} s")

    async def release(self) -> None:
        """Let a standby take over at once. Nothing to do when it is not ours any more."""
        try:
            found = await self._api.get(kube.leases(self._namespace, self._name))
            if found["spec"].get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                await self._api.replace(kube.leases(self._namespace, self._name), found)
        except KubeError as error:
            logger.warning("the Lease is not released, a standby waits for it to expire: %s", error)

    async def _try(self) -> bool:
        """One attempt to hold it: create, renew, or take over what expired."""
        try:
            found = await self._api.get(kube.leases(self._namespace, self._name))
        except KubeError as error:
            if error.status != 404:
                raise
            return await self._write(self._body({}), is_new=True)
        version = found["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        holder = found["spec"].get("holderIdentity")
        is_expired = self._clock() - self._seen[1] >= self._terms.duration
        if holder and holder != self._identity and not is_expired:
            return False
        return await self._write(self._body(found), is_new=False)

    async def _write(self, body: dict[str, Any], *, is_new: bool) -> bool:
        try:
            if is_new:
                await self._api.create(kube.leases(self._namespace), body)
            else:
                await self._api.replace(kube.leases(self._namespace, self._name), body)
        except KubeError as error:
            if error.status == 409:  # another was faster
                return False
            raise
        return True

    def _body(self, found: dict[str, Any]) -> dict[str, Any]:
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = found.get("spec", {})
        is_ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": found.get("metadata", {"namespace": self._namespace, "name": self._name}),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._terms.duration),
                "acquireTime": spec["acquireTime"] if is_ours and "acquireTime" in spec else now,
                "renewTime": now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if is_ours else 1),
            },
        }
