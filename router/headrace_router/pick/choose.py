"""Which replica a request goes to: the one that has the beginning of its prompt, unless it has more than its share.

Rendezvous hashing (Thaler and Ravishankar, 1998) gives every prompt an order of the replicas that hardly changes when
one comes or goes; the bound on each replica's load is that of consistent hashing with bounded loads (Mirrokni, Thorup
and Zadimoghaddam, 2016), with the places of the batch as capacity.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from headrace_router.pick.busy import Busy, Standing
from headrace_router.values import Asked, Endpoint, Pick, Reason

MOST_ABOVE_MEAN = 1.25  # a replica's requests may exceed its share of all of them by so much for the sake of a prefix
SLACK = 1  # requests: a report may count one that this router knows is finished, which must not move an idle prefix
ALTERNATIVES = 3  # replicas that are named for a request: the first and those to try when it cannot be reached


def choose(asked: Asked, endpoints: Sequence[Endpoint], busy: Busy, now: float) -> Pick:
    """`endpoints`: at least one."""
    by_wait = sorted((_candidate(asked, endpoint, busy, now) for endpoint in endpoints), key=_by_wait)
    if asked.affinity is not None:
        total = sum(one.standing.inside for one in by_wait) + 1
        fair = MOST_ABOVE_MEAN * total / sum(one.standing.slots for one in by_wait)
        least = by_wait[0].standing.wait
        allowed = [one for one in by_wait if one.standing.wait <= least and one.standing.inside < _bound(one, fair)]
        if allowed:
            home = min(allowed, key=lambda one: one.rank)
            others = [one.endpoint for one in by_wait if one is not home]
            return Pick((home.endpoint, *others[: ALTERNATIVES - 1]), Reason.AFFINITY)
    return Pick(tuple(one.endpoint for one in by_wait[:ALTERNATIVES]), Reason.LEAST_WAIT)


class _Candidate(NamedTuple):  # made for each replica at each request: a dataclass takes three times as long
    endpoint: Endpoint
    standing: Standing
    rank: bytes


def _candidate(asked: Asked, endpoint: Endpoint, busy: Busy, now: float) -> _Candidate:
    return _Candidate(endpoint, busy.standing(endpoint.uid, now), _rank(asked.affinity, endpoint.uid))


def _by_wait(one: _Candidate) -> tuple[float, float, bytes]:
    return one.standing.wait, one.standing.share, one.rank


def _bound(one: _Candidate, fair: float) -> int:
    """Requests that it may have, this one included."""
    return math.ceil(fair * one.standing.slots) + SLACK


def _rank(affinity: bytes | None, uid: str) -> bytes:
    return blake2b(uid.encode(), key=(affinity or b"")[:64], digest_size=8).digest()
