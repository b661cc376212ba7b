"""`headrace simulate`: options to a comparison, its rows to a table, JSON and a plot. Exit status 2 for bad input."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headrace_operator.errors import OperatorError
from headrace_operator.service import InferenceDeployment
from headrace_operator.simulate import engine, plot, policies, traces
from headrace_operator.simulate.comparison import Comparison, Run, run_all
from headrace_operator.simulate.faults import Faults
from headrace_operator.simulate.options import InvalidOption, routers, scaling
from headrace_operator.tools.table import table

BAD_INPUT = 2  # exit status


def simulate(options: argparse.Namespace) -> int:
    try:
        body = _live(options) if options.from_cr else None
        comparison = compared(options, body)
        names = _names(options.policy, comparison)
        if options.plot:
            plot.check(options.plot)
        runs = _run(comparison, names, options.jobs)
        _tell(options, comparison, runs)
    except (OperatorError, OSError) as error:
        sys.stderr.write(f"headrace: {error}\n")
        return BAD_INPUT
    return 0


def compared(options: argparse.Namespace, body: Mapping[str, Any] | None = None) -> Comparison:
    """`body`: an object whose bounds, targets and learned numbers hold where no option says otherwise."""
    requests = traces.read(options.trace, begin=options.begin, seconds=options.length)
    requests = traces.scaled(requests, options.scale, options.seed)
    if not requests:
        raise InvalidOption(f"--scale {options.scale:g} leaves no request of {options.trace}; give a larger one")
    known = None if body is None else InferenceDeployment.from_body(body)
    wanted = scaling(options, known)
    before = routers(options, wanted, known)
    return Comparison(
        requests=requests,
        scaling=wanted,
        engine=engine.read(options.replica) if options.replica else engine.Engine(),
        cold_start=options.cold_start,
        slo=options.slo,
        lead_in=min(options.lead_in, requests[-1].at),
        interval=options.interval,
        start=options.start_replicas,
        faults=Faults(
            metrics_delay=options.metrics_delay,
            metrics_loss=options.metrics_loss,
            gpus=((0.0, options.gpus),) if options.gpus else (),
        ),
        routing=options.routing or ("router" if before else "two-choices"),
        seed=options.seed,
        routers=before,
    )


def _live(options: argparse.Namespace) -> Mapping[str, Any]:
    from headrace_operator.simulate.live import fetched  # noqa: PLC0415 - Kubernetes' client takes half a second

    return fetched(options)


def _names(text: str, comparison: Comparison) -> list[str]:
    """Raises UnknownPolicy before an hour is simulated, not after."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidOption(f"--policy must name at least one; there are {policies.KNOWN}")
    for name in names:
        policies.check(name)
    return policies.compared(names, comparison.scaling)


def _run(comparison: Comparison, names: Sequence[str], jobs: int) -> list[Run]:
    whole = comparison.end * len(names)
    with tqdm(total=round(whole), unit="s", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:
        done, before = 0.0, 0.0

        def progress(now: float) -> None:
            nonlocal done, before
            if now < before:  # the next policy begins
                done += comparison.end
            before = now
            if (told := min(whole, done + now)) - bar.n >= whole / 200:
                bar.update(told - bar.n)

        def finished(now: float) -> None:
            bar.update(now)

        return list(run_all(comparison, names, jobs, progress if jobs <= 1 else finished))


def _tell(options: argparse.Namespace, comparison: Comparison, runs: Sequence[Run]) -> None:
    if options.plot:
        plot.write(options.plot, comparison, runs)
    if not options.json:
        sys.stdout.write(_table(runs))
        return
    text = json.dumps(result(options, comparison, runs), indent=2) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        Path(options.json).write_text(text)


def result(options: argparse.Namespace, comparison: Comparison, runs: Sequence[Run]) -> dict[str, Any]:
    """The common form of every measurement of this project."""
    return {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "work": {
            "trace": options.trace.name,
            "scale": options.scale,
            "requests": len(comparison.requests),
            "seconds": round(comparison.requests[-1].at, 1),
            "lead_in_seconds": round(comparison.lead_in, 1),
            "slo_seconds": comparison.slo,
            "cold_start_seconds": comparison.cold_start,
            "min_replicas": comparison.scaling.min_replicas,
            "max_replicas": comparison.scaling.max_replicas,
            "start_replicas": comparison.start or comparison.scaling.min_replicas,
            "queue_wait_target_seconds": comparison.scaling.queue_wait_target,
            "utilization": comparison.scaling.utilization,
            "routing": comparison.routing,
            "seed": comparison.seed,
            **_of_routers(comparison),
        },
        "rows": [run.row for run in runs],
    }


def _of_routers(comparison: Comparison) -> dict[str, Any]:
    before = comparison.routers
    if before is None:
        return {}
    return {
        "routers": before.number,
        "hold_requests": before.hold.requests,
        "hold_seconds": before.hold.timeout,
        "idle_timeout_seconds": comparison.scaling.idle_timeout,
    }


def _table(runs: Sequence[Run]) -> str:
    return f"{_policies(runs)}{_routers(runs)}"


def _routers(runs: Sequence[Run]) -> str:
    """Empty where there are none."""
    kept = next((run.outcome.replica_hours for run in runs if policies.is_kept(run.name)), None)
    rows = []
    for run in runs:
        met = run.outcome.at_routers
        if met is None:
            return ""
        waits = (f"{seconds:.1f}s" for seconds in (met.held_p50, met.held_p95, met.held_longest))
        saved = "" if kept is None else f"{kept - run.outcome.replica_hours:.2f}"
        rows.append((run.name, met.from_zero, met.held, f"{met.held_share:.2%}", *waits, met.refused, saved))
    head = ("AT THE ROUTERS", "FROM ZERO", "HELD", "OF ALL", "FOR P50", "P95", "LONGEST", "REFUSED", "HOURS SAVED")
    return "\n" + table(head, rows)


def _policies(runs: Sequence[Run]) -> str:
    head = ("POLICY", "MISSED", "P50", "P95", "P99", "HOURS", "X WORK", "TURNS", "PEAK")
    rows = []
    for run in runs:
        done = run.outcome
        waits = (f"{wait:.2f}s" for wait in (done.wait_p50, done.wait_p95, done.wait_p99))
        hours = f"{done.replica_hours:.1f}", f"{done.work_bound_ratio:.2f}"
        rows.append((run.name, f"{done.slo_miss_share:.2%}", *waits, *hours, done.reversals, done.peak_replicas))
    return table(head, rows)
