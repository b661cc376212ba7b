"""Which replica a request goes to: the one that has the beginning of its prompt, unless it has more than its share.

Rendezvous hashing (Thaler and Ravishankar, 1998) gives every prompt an order of the replicas that hardly changes when
one comes or goes; the bound on each replica's load is that of consistent hashing with bounded loads (Mirrokni, Thorup
and Zadimoghaddam, 2016), with the places of the batch as capacity.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

from headrace_router.pick.busy import Busy
from headrace_router.values import Asked, Endpoint, Pick, Reason

MOST_ABOVE_MEAN = 1.25  # a replica's requests may exceed its share of all of them by so much for the sake of a prefix
SLACK = 1  # requests: a report may count one that this router knows is finished, which must not move an idle prefix
ALTERNATIVES = 3  # replicas that are named for a request: the first and those to try when it cannot be reached


def choose(asked: Asked, endpoints: Sequence[Endpoint], busy: Busy, now: float) -> Pick:
    """`endpoints`: at least one."""
    waits = {endpoint.uid: busy.predicted_wait(endpoint.uid, now) for endpoint in endpoints}
    shares = {endpoint.uid: busy.share(endpoint.uid, now) for endpoint in endpoints}
    ranks = {endpoint.uid: _rank(asked.affinity, endpoint.uid) for endpoint in endpoints}
    by_wait = sorted(endpoints, key=lambda one: (waits[one.uid], shares[one.uid], ranks[one.uid]))
    least = waits[by_wait[0].uid]
    if asked.affinity is not None:
        bounds = _bounds(endpoints, busy, now)
        allowed = [
            one for one in endpoints if waits[one.uid] <= least and busy.inside(one.uid, now) < bounds[one.uid]
        ]  # fmt: skip
        if allowed:
            home = min(allowed, key=lambda one: ranks[one.uid])
            others = [one for one in by_wait if one is not home]
            return Pick((home, *others[: ALTERNATIVES - 1]), Reason.AFFINITY)
    return Pick(tuple(by_wait[:ALTERNATIVES]), Reason.LEAST_WAIT)


def _bounds(endpoints: Sequence[Endpoint], busy: Busy, now: float) -> dict[str, int]:
    """Requests that each may have, this one included. One pass over the replicas: it is made for every request."""
    total = sum(busy.inside(each.uid, now) for each in endpoints) + 1
    slots = {each.uid: busy.slots(each.uid) for each in endpoints}
    fair = MOST_ABOVE_MEAN * total / sum(slots.values())
    return {uid: math.ceil(fair * places) + SLACK for uid, places in slots.items()}


def _rank(affinity: bytes | None, uid: str) -> bytes:
    return blake2b(uid.encode(), key=(affinity or b"")[:64], digest_size=8).digest()
