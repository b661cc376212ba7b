"""A sizing as a row of figures, alone or for two models that share a load."""

from dataclasses import dataclass

from headrace_server.sizing.demand import Demand
from headrace_server.sizing.replicas import Replica, Sizing

MILLION, HOUR = 1e6, 3600.0
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Sized:
    """One model in one format, for its part of the load."""

    model: str
    share: float  # of the requests
    weights: str  # dtype, int8, int4
    kv_cache: str  # dtype, int8
    replica: Replica
    demand: Demand
    sizing: Sizing
    gpus: int  # of a replica
    not_served: str | None  # why this version of the server refuses it; None: it does not


def row(one: Sized, price: float | None) -> Row:
    """`price`: of a GPU hour; None: nobody said."""
    sizing, full = one.sizing, one.sizing.full
    answers = one.demand.answer_rate / one.demand.rate  # tokens, in the mean
    capacity = full.requests_per_second * answers if full else None
    return {
        "model": one.model,
        "share": one.share,
        "weights": one.weights,
        "kv_cache": one.kv_cache,
        "replicas": sizing.replicas,
        "gpus": _gpus(one),
        "bound": str(sizing.bound),
        "why": sizing.why,
        "not_served": one.not_served,
        "running": full.running if full else None,
        "kv_tokens": one.replica.cache_tokens,
        "kv_bytes_per_token": round(one.replica.work.kv_bytes_per_token),
        "weights_gb": _round(one.replica.weights / 1e9),
        "token_ms": _round(1000 * full.token_seconds) if full else None,
        "capacity_tokens_per_s": _round(capacity),
        "expected_tokens_per_s": _round(one.demand.answer_rate) if sizing.replicas else None,
        "utilization": _round(sizing.utilization),
        "wait_p95_s": _round(sizing.wait),
        "ttft_p95_s": _round(sizing.ttft),
    } | _bill(_gpus(one), one.demand.answer_rate, trace_rate(one.demand), price, capacity and capacity / one.gpus)


def pair(one: Sized, other: Sized, price: float | None) -> Row:
    """Both together; nothing where one of them cannot be."""
    gpus = None if (ours := _gpus(one)) is None or (theirs := _gpus(other)) is None else ours + theirs
    replicas = None if gpus is None else (one.sizing.replicas or 0) + (other.sizing.replicas or 0)
    rate = one.demand.answer_rate + other.demand.answer_rate
    return {
        "model": f"{one.model} + {other.model}",
        "share": one.share + other.share,
        "weights": one.weights,
        "kv_cache": one.kv_cache,
        "replicas": replicas,
        "gpus": gpus,
        "bound": f"{one.sizing.bound} + {other.sizing.bound}",
        "why": f"{one.sizing.why}; {other.sizing.why}",
        "not_served": one.not_served or other.not_served,
        "expected_tokens_per_s": _round(rate) if replicas else None,
    } | _bill(gpus, rate, trace_rate(one.demand) + trace_rate(other.demand), price, None)


def trace_rate(demand: Demand) -> float:
    """Answer tokens a second over the whole trace."""
    return demand.trace_answer_tokens / demand.trace_seconds


def _gpus(one: Sized) -> int | None:
    return None if one.sizing.replicas is None else one.sizing.replicas * one.gpus


def _bill(gpus: int | None, busiest: float, trace: float, price: float | None, full: float | None) -> Row:
    """GPU hours for a million answer tokens. `full`: tokens a second of one GPU that is never idle."""
    hours = {
        "full": MILLION / (full * HOUR) if full else None,
        "busiest": gpus * MILLION / (busiest * HOUR) if gpus else None,
        "trace": gpus * MILLION / (trace * HOUR) if gpus else None,
    }
    found: Row = {f"gpu_hours_per_million_{name}": _round(value) for name, value in hours.items()}
    for name, value in hours.items():
        found[f"cost_per_million_{name}"] = None if price is None or value is None else _round(value * price)
    return found


def _round(value: float | None) -> float | None:
    """Four digits that count."""
    return None if value is None else float(f"{value:.4g}")
