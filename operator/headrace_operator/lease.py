"""Leader election on a coordination.k8s.io Lease: one operator writes, the others stand by with warm caches.

The rules of client-go: a holder's Lease is expired when it has not changed for its duration by *our* clock (clocks of
hosts differ); a holder that cannot renew in time stops by itself, earlier. resourceVersion decides races.
"""

import asyncio
import logging
import math
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
    """Seconds. A crashed leader is replaced after at most duration + 2 * retry: the standby saw its last sign of life
    `retry` late, and looks again `retry` after it expired."""

    duration: float = 10.0  # others may take over after this
    renew_within: float = 8.0  # the holder stops writing after this
    renew: float = 2.0  # between renewals
    attempt: float = 1.5  # for one renewal: one that hangs leaves time for others
    retry: float = 1.0  # between the looks of a standby, and after a failed renewal


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
        self._held: dict[str, Any] | None = None  # as we wrote it last
        self._renewed_at = -math.inf  # our clock, before the last renewal that got through was sent

    @property
    def is_held(self) -> bool:
        """By our clock alone: a process that was stopped, or cut off, knows when it wakes that it may not go on."""
        return self._clock() - self._renewed_at < self._terms.renew_within

    def check(self) -> None:
        """Raises LeaseLost when another may lead by now."""
        if not self.is_held:
            raise LeaseLost(f"lease {self._namespace}/{self._name}: not renewed for {self._terms.renew_within:g} s")

    async def acquire(self) -> None:
        """Returns when this process leads."""
        while not await self._attempt():  # noqa: ASYNC110 - the event would be on another machine
            await asyncio.sleep(self._terms.retry)
        logger.info("leading as %s", self._identity)

    async def hold(self) -> None:
        """Renews for ever. Raises LeaseLost when another holds it, or when no renewal got through in time."""
        pause = self._terms.renew
        while True:
            await asyncio.sleep(pause)
            self.check()
            pause = self._terms.renew if await self._attempt() else self._terms.retry / 2

    async def release(self) -> None:
        """Let a standby take over at once. Nothing to do when it is not ours any more."""
        self._renewed_at = -math.inf
        try:
            async with asyncio.timeout(self._terms.attempt):
                found = await self._api.get(kube.leases(self._namespace, self._name))
                if found["spec"].get("holderIdentity") == self._identity:
                    found["spec"]["holderIdentity"] = ""
                    await self._api.replace(kube.leases(self._namespace, self._name), found)
        except (TimeoutError, KubeError) as error:
            logger.warning("the Lease is not released, a standby waits for it to expire: %s", error)

    async def _attempt(self) -> bool:
        """Did we renew or take it? No for every error: an API server that just started refuses us, too."""
        sent_at = self._clock()
        try:
            async with asyncio.timeout(self._terms.attempt):
                held = await self._renew() or await self._take()
        except (TimeoutError, KubeError) as error:
            logger.warning("the Lease is not to be had: %s: %s", type(error).__name__, error)
            return False
        if held:
            self._renewed_at = sent_at
        return held

    async def _renew(self) -> bool:
        """One call, while nobody else has written since."""
        return self._held is not None and await self._write(self._body(self._held), is_new=False)

    async def _take(self) -> bool:
        """Look, then create, renew, or take over what expired. Raises LeaseLost when it was ours and is another's."""
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
            self._give_up(holder)
            return False
        return await self._write(self._body(found), is_new=False)

    def _give_up(self, holder: str) -> None:
        was_held, self._renewed_at = self.is_held, -math.inf
        if was_held:
            raise LeaseLost(f"lease {self._namespace}/{self._name}: {holder} holds it")

    async def _write(self, body: dict[str, Any], *, is_new: bool) -> bool:
        self._held = None
        try:
            if is_new:
                self._held = await self._api.create(kube.leases(self._namespace), body)
            else:
                self._held = await self._api.replace(kube.leases(self._namespace, self._name), body)
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
                "leaseDurationSeconds": math.ceil(self._terms.duration),
                "acquireTime": spec["acquireTime"] if is_ours and "acquireTime" in spec else now,
                "renewTime": now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if is_ours else 1),
            },
        }
