"""Replicas that cannot be reached are left out for a while, longer each time; never all of them.

The rule of Envoy's outlier detection for consecutive gateway failures, kept here so that the choice knows of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace_router.values import Endpoint

FAILURES = 3  # in a row
FIRST, LONGEST = 5.0, 60.0  # seconds that a replica is left out
MOST_SHARE = 0.5  # of the replicas that may be out together; beyond it something else is wrong


@dataclass(slots=True)
class Ejections:
    failures: dict[str, int] = field(default_factory=dict)  # in a row, by pod UID
    until: dict[str, float] = field(default_factory=dict)  # seconds
    times: dict[str, int] = field(default_factory=dict)  # how often a replica was left out since it last answered

    def answered(self, uid: str) -> None:
        for of in (self.failures, self.until, self.times):
            of.pop(uid, None)

    def failed(self, uid: str, now: float) -> bool:
        """Returns whether the replica is left out from now on."""
        self.failures[uid] = self.failures.get(uid, 0) + 1
        if self.failures[uid] < FAILURES:
            return False
        self.failures[uid] = 0
        self.times[uid] = self.times.get(uid, 0) + 1
        self.until[uid] = now + min(LONGEST, FIRST * 2 ** (self.times[uid] - 1))
        return True

    def in_service(self, endpoints: Sequence[Endpoint], now: float) -> list[Endpoint]:
        if not self.until:  # almost always, and every request asks
            return list(endpoints)
        out = [endpoint for endpoint in endpoints if self.until.get(endpoint.uid, 0.0) > now]
        allowed = int(len(endpoints) * MOST_SHARE)
        left_out = {endpoint.uid for endpoint in sorted(out, key=lambda one: -self.until[one.uid])[:allowed]}
        return [endpoint for endpoint in endpoints if endpoint.uid not in left_out]

    def keep(self, uids: set[str]) -> None:
        for of in (self.failures, self.until, self.times):
            for uid in set(of) - uids:
                del of[uid]
