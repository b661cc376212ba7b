"""`headrace size`: how many replicas would this load need on that GPU, and what would its tokens cost?"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_server.client.traces import UnusableTrace, read_trace
from headrace_server.config import EngineConfig, KvCacheDtype
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.report_file import leave
from headrace_server.sizing.demand import Asked, Demand, busiest
from headrace_server.sizing.devices import CPU, GIGA, NAMES, TERA, Device, known
from headrace_server.sizing.efficiency import Efficiency, read_efficiency
from headrace_server.sizing.replicas import PERCENTILE, Promise, Replica, size
from headrace_server.sizing.roofline import Speeds
from headrace_server.sizing.rows import Row, Sized, pair, row

if TYPE_CHECKING:
    from headrace_server.model.footprint import Footprint

IMPOSSIBLE, CANNOT = 1, 2  # exit statuses
CACHE_SHARE = 0.85  # of what the weights leave free: as `headrace serve` takes it on a GPU
NO_KERNEL = "weights in fewer bits are served on a CPU only as yet"
ONE_DEVICE = "a replica computes on one device only as yet"
COLUMNS = {
    "model": "model",
    "share": "share",
    "weights": "weights",
    "kv_cache": "kv",
    "replicas": "replicas",
    "bound": "bound",
    "running": "running",
    "kv_tokens": "kv tokens",
    "capacity_tokens_per_s": "tok/s each",
    "utilization": "busy",
    "wait_p95_s": "wait s",
    "ttft_p95_s": "ttft s",
    "gpu_hours_per_million_full": "GPU h/M full",
    "gpu_hours_per_million_trace": "GPU h/M trace",
    "cost_per_million_trace": "cost/M trace",
}


class Unknown(Exception):
    """An option that is needed; says which."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all models have in common."""

    dtype: str
    device: Device
    efficiency: Efficiency
    demand: Demand
    promise: Promise
    utilization: float
    max_running: int
    gpus: int  # of a replica

    @property
    def speeds(self) -> Speeds:
        share = self.efficiency
        return Speeds(
            self.device.read * share.read,
            self.device.multiply * share.multiply,
            share.overhead_ms / 1000,
            share.token_overhead_ms / 1000,
        )


def register(parser: argparse.ArgumentParser) -> None:
    """Tell how many replicas a recorded load needs on a GPU, by arithmetic: no weights are read."""
    add = parser.add_argument_group("what is served").add_argument
    add("--model", type=Path, required=True, help="folder of config.json; weights may lie there")
    add("--small", type=Path, help="folder of a smaller model that answers part of the requests")
    add("--small-share", type=_part, help="of the requests that --small answers, between 0 and 1")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="(default %(default)s)")
    add("--max-running", type=_positive, default=EngineConfig().max_running, help="as of serve (default %(default)s)")
    add = parser.add_argument_group("on what").add_argument
    add("--gpu", choices=NAMES, required=True, help="cpu: say its speeds below")
    add("--gpus-per-replica", type=_positive, default=1, metavar="N", help="as if they were one (default %(default)s)")
    add("--gpu-hour-price", type=_above_0, help="of one GPU, in your money (default: only GPU hours are told)")
    add("--memory-gb", type=_above_0, help="of one device (default: the data sheet's)")
    add("--read-gbs", type=_above_0, help="GB/s that it reads at best (default: the data sheet's)")
    add("--tflops", type=_above_0, help="that it multiplies at best in --dtype (default: the data sheet's)")
    add("--efficiencies", type=Path, help="JSON file: which shares of these are attained (docs/sizing.md)")
    add("--read-efficiency", type=_share, help="the share of --read-gbs, instead of the file's")
    add("--multiply-efficiency", type=_share, help="the share of --tflops, instead of the file's")
    add = parser.add_argument_group("for which load").add_argument
    add("--trace", type=Path, required=True, help="recorded requests: Azure's or BurstGPT's CSV, Mooncake's JSONL")
    add("--scale", type=_above_0, default=1.0, metavar="X", help="times the trace's rate (default %(default)g)")
    add("--window", type=_above_0, default=60.0, help="seconds of the busiest moment (default %(default)g)")
    add("--slo", type=_promise, default=Promise(), metavar="wait=S,ttft=S,itl=S", help="seconds; 95th percentile")
    add("--utilization", type=_share, default=0.7, help="of the replicas at that moment, at most (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result there; - is stdout (default: a table)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1: in no format any number of replicas is enough; 2: it could not be told."""
    try:
        plan = _plan(options)
        rows = _rows(plan, options)
        _report(options.json, plan, rows)
    except (BadFile, ModelRefused, UnusableTrace, Unknown, OSError) as refused:
        sys.stderr.write(f"headrace size: {refused}\n")
        return CANNOT
    return 0 if any(one["replicas"] is not None for one in rows) else IMPOSSIBLE


def _rows(plan: Plan, options: argparse.Namespace) -> list[Row]:
    """Raises ModelRefused, Unknown."""
    if (options.small is None) != (options.small_share is None):
        raise Unknown("--small and --small-share go together; give both or neither")
    price = options.gpu_hour_price
    rows = [row(one, price) for one in _sized(plan, options.model, 1.0)]
    if options.small is None:
        return rows
    larges = _sized(plan, options.model, 1.0 - options.small_share)
    smalls = _sized(plan, options.small, options.small_share)
    rows += [row(one, price) for one in (*larges, *smalls)]
    alike = [(one, other) for one in larges for other in smalls if _format(one) == _format(other)]
    if not alike:
        raise Unknown(f"{options.model} and {options.small} have no format in common; convert neither, or both alike")
    return rows + [pair(one, other, price) for one, other in alike]


def _sized(plan: Plan, model: Path, share: float) -> list[Sized]:
    """Raises ModelRefused."""
    import torch  # noqa: PLC0415 - `headrace --help` waits for no torch

    from headrace_server.model.footprint import footprints  # noqa: PLC0415 - likewise

    demand = plan.demand.part(share)
    found = []
    for each in footprints(model, getattr(torch, plan.dtype)):
        cache = (plan.device.memory - each.bytes) * CACHE_SHARE
        replica = Replica(each.work, plan.speeds, each.bytes, cache, plan.max_running)
        found.append(
            Sized(
                model=model.resolve().name,
                share=share,
                weights=str(each.weights or plan.dtype),
                kv_cache=plan.dtype if each.cache is KvCacheDtype.AUTO else str(each.cache),
                replica=replica,
                demand=demand,
                sizing=size(replica, demand, plan.promise, plan.utilization),
                gpus=plan.gpus,
                not_served=_refusal(plan, each),
            )
        )
    return found


def _format(one: Sized) -> tuple[str, str]:
    return one.weights, one.kv_cache


def _refusal(plan: Plan, footprint: "Footprint") -> str | None:
    """Why this version of the server does not take it."""
    if plan.gpus > 1:
        return ONE_DEVICE
    if footprint.weights is not None and not plan.device.is_cpu:
        return NO_KERNEL
    return footprint.refusal


def _plan(options: argparse.Namespace) -> Plan:
    """Raises UnusableTrace, BadFile, Unknown, OSError."""
    is_cpu = options.gpu == CPU
    efficiency = read_efficiency(options.efficiencies, is_cpu)
    asked = [Asked(each.due, max(1, each.prompt_tokens), max(1, each.new_tokens)) for each in read_trace(options.trace)]
    return Plan(
        dtype=options.dtype,
        device=_device(options).times(options.gpus_per_replica),
        efficiency=_overridden(efficiency, options),
        demand=busiest(asked, options.window, options.scale),
        promise=options.slo,
        utilization=options.utilization,
        max_running=options.max_running,
        gpus=options.gpus_per_replica,
    )


def _device(options: argparse.Namespace) -> Device:
    """Raises Unknown."""
    said = {name: getattr(options, name) for name in ("memory_gb", "read_gbs", "tflops")}
    if options.gpu == CPU:
        if missing := [f"--{name.replace('_', '-')}" for name, value in said.items() if value is None]:
            raise Unknown(f"--gpu=cpu needs {', '.join(missing)}: bench/sizing.py measures them on a machine")
        return Device(CPU, said["memory_gb"] * GIGA, said["read_gbs"] * GIGA, said["tflops"] * TERA, "options", True)
    device = known(options.gpu)
    if not any(said.values()):
        return device
    return Device(
        device.name,
        device.memory if said["memory_gb"] is None else said["memory_gb"] * GIGA,
        device.read if said["read_gbs"] is None else said["read_gbs"] * GIGA,
        device.multiply if said["tflops"] is None else said["tflops"] * TERA,
        f"{device.source} and options",
    )


def _overridden(found: Efficiency, options: argparse.Namespace) -> Efficiency:
    if options.read_efficiency is None and options.multiply_efficiency is None:
        return found
    return replace(
        found,
        read=options.read_efficiency or found.read,
        multiply=options.multiply_efficiency or found.multiply,
        where=f"options, and {found.where}",
    )


def _report(where: str | None, plan: Plan, rows: list[Row]) -> None:
    if where is None:
        _print(plan, rows)
        return
    demand = plan.demand
    result = {
        "device": asdict(plan.device),
        "efficiency": asdict(plan.efficiency),
        "demand": {
            "busiest_from_s": demand.begin,
            "busiest_for_s": demand.seconds,
            "requests_per_s": demand.rate,
            "prompt_tokens_per_s": demand.prompt_rate,
            "answer_tokens_per_s": demand.answer_rate,
            "arrival_variability": demand.arrival_variability,
            "trace_s": demand.trace_seconds,
            "trace_answer_tokens": demand.trace_answer_tokens,
        },
        "promise": asdict(plan.promise) | {"percentile": PERCENTILE},
        "utilization": plan.utilization,
        "rows": rows,
    }
    leave(where, json.dumps(result, indent=2) + "\n")


def _print(plan: Plan, rows: list[Row]) -> None:
    demand, told = plan.demand, {name: head for name, head in COLUMNS.items() if any(row.get(name) for row in rows)}
    lines = [list(told.values())]
    lines += [["-" if (value := row.get(name)) is None else str(value) for name in told] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    reasons = {f"{row['weights']}: {row['not_served']}" for row in rows if row["not_served"]}
    impossible = {f"{row['model']}, {row['weights']}: {row['why']}" for row in rows if row["replicas"] is None}
    text = [
        f"busiest {demand.seconds:g} s: {demand.rate:.3g} requests/s, {demand.prompt_rate:.4g} prompt and "
        f"{demand.answer_rate:.4g} answer tokens/s",
        f"{plan.device.name}: {plan.device.source}; attained: {plan.efficiency.where}",
        *table,
        *(f"not possible: {reason}" for reason in sorted(impossible)),
        *(f"not served: {reason}" for reason in sorted(reasons)),
    ]
    sys.stdout.write("\n".join([*text, ""]))


def _promise(word: str) -> Promise:
    known = ("wait", "ttft", "itl")
    limits: dict[str, float] = {}
    for part in word.split(","):
        name, _, value = part.partition("=")
        if name not in known:
            raise argparse.ArgumentTypeError(f"names {name!r}; known: {', '.join(known)}, such as ttft=1,itl=0.05")
        limits[name] = _above_0(value)
    return Promise(**limits)


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; must be at least 1")
    return value


def _above_0(word: str) -> float:
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {word}; must be a number above 0")
    return value


def _share(word: str) -> float:
    value = float(word)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0 and at most 1")
    return value


def _part(word: str) -> float:
    value = float(word)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"is {word}; must be between 0 and 1, and neither")
    return value
