"""What a policy cost and what its users waited: one row of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.traces import Request
from headrace_operator.simulate.world import World


@dataclass(frozen=True, slots=True)
class AtRouters:
    """What requests met before a replica."""

    from_zero: int  # starts with no replica there
    held: int  # requests that waited at a router for a replica
    held_share: float  # of all requests
    held_p50: float  # seconds, of those that were held
    held_p95: float
    held_longest: float
    refused: int  # requests, for good: too many were held, or one for too long

    def row(self) -> dict[str, Any]:
        return {
            "starts_from_zero": self.from_zero,
            "held_requests": self.held,
            "held_share": round(self.held_share, 5),
            "held_p50_s": round(self.held_p50, 3),
            "held_p95_s": round(self.held_p95, 3),
            "held_max_s": round(self.held_longest, 3),
            "refused_requests": self.refused,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    slo_miss_share: float  # of requests that waited longer than the SLO for their first step, or never had one
    wait_p50: float  # seconds
    wait_p95: float
    wait_p99: float
    replica_hours: float
    work_bound_ratio: float  # replica-hours / those that the work itself takes in full batches
    reversals: int  # changes of the wanted number against the direction of the one before
    changes: int
    peak_replicas: int  # the highest number that was wanted
    at_routers: AtRouters | None = None  # None = there are none

    def row(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "slo_miss_share": round(self.slo_miss_share, 5),
            "wait_p50_s": round(self.wait_p50, 3),
            "wait_p95_s": round(self.wait_p95, 3),
            "wait_p99_s": round(self.wait_p99, 3),
            "replica_hours": round(self.replica_hours, 3),
            "work_bound_ratio": round(self.work_bound_ratio, 3),
            "reversals": self.reversals,
            "changes": self.changes,
            "peak_replicas": self.peak_replicas,
            **(self.at_routers.row() if self.at_routers else {}),
        }


def outcome(world: World, slo: float, begin: float, end: float) -> Outcome:
    """Of the requests that came, and the replicas that were held, between `begin` and `end` seconds."""
    waits = sorted(wait for at, wait in world.waits if begin <= at <= end)
    refused = sum(begin <= at <= end for at in world.refused)
    came = len(waits) + refused
    moments = [moment for moment in world.moments if begin <= moment.at <= end]
    steps = [after.desired - before.desired for before, after in pairwise(moments)]
    turns = [step > 0 for step in steps if step]
    hours = world.fleet.hours(begin, end)
    bound = bound_hours(world.setting.engine, [request for request in world.requests if begin <= request.at <= end])
    return Outcome(
        slo_miss_share=(sum(wait > slo for wait in waits) + refused) / came if came else 0.0,
        wait_p50=_quantile(waits, 0.50),
        wait_p95=_quantile(waits, 0.95),
        wait_p99=_quantile(waits, 0.99),
        replica_hours=hours,
        work_bound_ratio=hours / bound if bound else 0.0,
        reversals=sum(one is not other for one, other in pairwise(turns)),
        changes=len(turns),
        peak_replicas=max((moment.desired for moment in moments), default=world.setting.start),
        at_routers=_at_routers(world, came, refused, begin, end) if world.setting.routers else None,
    )


def _at_routers(world: World, came: int, refused: int, begin: float, end: float) -> AtRouters:
    held = sorted(seconds for at, seconds in world.holds if begin <= at <= end)
    before = [world.setting.start, *(moment.desired for moment in world.moments)]
    starts = [moment.at for was, moment in zip(before, world.moments, strict=False) if was == 0 < moment.desired]
    return AtRouters(
        from_zero=sum(at >= begin for at in starts),  # the last requests' start may come after them
        held=len(held),
        held_share=len(held) / came if came else 0.0,
        held_p50=_quantile(held, 0.50),
        held_p95=_quantile(held, 0.95),
        held_longest=held[-1] if held else 0.0,
        refused=refused,
    )


def work(engine: Engine, request: Request) -> float:
    """Replica-seconds that a request takes in batches that are as full as slots and KV room allow."""
    tokens = request.prompt + request.generated
    together = max(1.0, min(engine.slots, engine.kv_tokens / tokens))
    return _work(engine, request, together) + request.prompt * engine.overhead / engine.tokens_per_step


def paced_work(engine: Engine, request: Request) -> float:
    """Likewise, of a replica on which nobody's next token waits for prompts longer than the pace allows.

    Where many such requests come, so many decode as prompts are ready for: they share the overhead, and no more do.
    """
    tokens = request.prompt + request.generated
    together = min(engine.slots, engine.kv_tokens / tokens, engine.tokens_per_step / (tokens / request.generated))
    each = engine.seconds_per_token + engine.seconds_per_sequence + engine.seconds_per_kv_token * request.prompt
    cost = engine.seconds_per_token + engine.seconds_per_pair * request.prompt / 2
    share = (engine.slower - 1) / cost  # prompt tokens in a step for each second that it takes without them
    left = request.prompt / request.generated - share * each
    if left > 0:
        together = min(together, share * engine.overhead / left)
    return _work(engine, request, max(1.0, together))


def _work(engine: Engine, request: Request, together: float) -> float:
    """Of steps in which so many decode, and others' prompts are computed beside them."""
    context = request.prompt + request.generated / 2
    answer = engine.overhead / together + engine.seconds_per_sequence + engine.seconds_per_kv_token * context
    tokens, pairs = request.prompt + request.generated, request.prompt * request.prompt / 2
    return request.generated * answer + engine.seconds_per_token * tokens + engine.seconds_per_pair * pairs


def bound_hours(engine: Engine, requests: Sequence[Request]) -> float:
    """Replica-hours below which no policy can serve them."""
    return sum(work(engine, request) for request in requests) / 3600


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
