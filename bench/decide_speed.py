"""An hour of looks every 5 s at 500 deployments of four pods each: what the operator's decision takes of a processor.

    python bench/decide_speed.py --json -
    python bench/decide_speed.py --compiled --json -  # beside it the same as machine code, from a wheel made for this

Times what stands between the observation and the plan: the signals, the decision, what is remembered of both. Making
the observations, as the scraper would have, is outside; so is a decision's message, made when somebody reads it. Loads
differ: idle, steady, with a tide, in bursts, with a queue. `decisions` is a fingerprint of every number, reason and
message: a faster version of the same law shows the same one. One process first, then one for each core.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from comparison.report import add_json, report
from headrace_operator.decide import replicas
from headrace_operator.decide.buckets import Buckets
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState
from headrace_operator.service import Scaling

OPERATOR = Path(__file__).parents[1] / "operator"
INTERVAL = 5.0  # seconds between two looks
PODS = 4
SLOTS = 64  # requests that a replica runs together
WORK = 100.0  # tokens of a request
CAPACITY = 1000.0  # tokens/s of a replica
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, math.inf)  # the server's
SCALING = Scaling(PODS, 64, queue_wait_target=0.5, utilization=0.7, scale_down_window=300.0)  # the CRD's defaults
KINDS = ("idle", "steady", "tide", "bursts", "queue")
STARTED = 1_000_000.0  # epoch seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """Of some deployments."""

    processor: float  # seconds that deciding took
    elapsed: float  # seconds, the making of the observations included
    decided: list[bytes]  # of each deployment, what tells its decisions from others


def load(kind: str, tick: int, rng: random.Random) -> float:
    """Requests/s of one pod."""
    usual = 0.6 * CAPACITY / WORK
    shape = {
        "idle": 0.0,
        "steady": 1.0,
        "tide": 1.0 + 0.8 * math.sin(tick / 60),
        "bursts": 6.0 if tick % 24 == 0 else 0.3,
        "queue": 2.0 if tick % 120 < 20 else 0.9,
    }
    return usual * shape[kind] * rng.uniform(0.8, 1.2)


class Pod:
    """Its counters, as a server's would rise."""

    def __init__(self, ordinal: int, rng: random.Random) -> None:
        self.ordinal, self.rng = ordinal, rng
        self.received = self.done = self.waiting = 0.0
        self.waits = [0.0] * len(BOUNDS)

    def state(self, kind: str, tick: int) -> PodState:
        came = load(kind, tick, self.rng) * INTERVAL
        done = min(self.waiting + came, CAPACITY / WORK * INTERVAL)
        wait = self.waiting / (CAPACITY / WORK)
        self.received, self.done, self.waiting = self.received + came, self.done + done, self.waiting + came - done
        self.waits[next(n for n, bound in enumerate(BOUNDS) if wait + 0.004 <= bound)] += done
        at = STARTED + tick * INTERVAL + 0.01 * self.ordinal
        running = SLOTS if self.waiting >= 1 else int(SLOTS * done * WORK / (CAPACITY * INTERVAL))
        sample = PodSample(
            at=at, waiting=int(self.waiting), running=running, max_running=SLOTS, oldest_waiting=wait,
            received=self.received, finished=self.done, finished_tokens=self.done * WORK, tokens=self.done * WORK,
            queue_waits=Buckets(zip(BOUNDS, accumulate(self.waits), strict=True)), kv_use=running / SLOTS,
        )  # fmt: skip
        return PodState(
            f"chat-{self.ordinal}", f"uid-{self.ordinal}", self.ordinal, "7c9f", PodPhase.READY,
            created_at=STARTED - 1000, ready_at=STARTED - 900, sample=sample,
        )  # fmt: skip


def observations(number: int, ticks: int) -> Iterator[tuple[float, Observed]]:
    """Of the deployment with this number."""
    pods = [Pod(ordinal, random.Random(f"{number}-{ordinal}")) for ordinal in range(PODS)]
    kind = KINDS[number % len(KINDS)]
    for tick in range(ticks):
        yield STARTED + tick * INTERVAL + 0.1, Observed(tuple(pod.state(kind, tick) for pod in pods))


def measured(numbers: range, ticks: int) -> Measured:
    began, processor, decided = time.perf_counter(), 0.0, []
    for number in numbers:
        seen = list(observations(number, ticks))
        history, decisions = History.restored({}, PODS, STARTED), []
        started = time.process_time()
        for now, pods in seen:
            history, signals = measure(pods, history, now)
            decision = decide(look(SCALING, pods, signals, history, now))
            history = remembered(history, decision, now)
            decisions.append(decision)
        processor += time.process_time() - started
        told = repr([(one.replicas, one.reason, one.message) for one in decisions])
        decided.append(hashlib.sha256(told.encode()).digest())
    return Measured(processor, time.perf_counter() - began, decided)


def spread(deployments: int, ticks: int, processes: int) -> tuple[list[Measured], float]:
    """In so many processes, each with its share of the deployments, in order. With the seconds that passed."""
    size = math.ceil(deployments / processes)
    shares = [range(first, min(first + size, deployments)) for first in range(0, deployments, size)]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(measured, [(share, ticks) for share in shares])
    return parts, time.perf_counter() - began


def row(parts: list[Measured], deployments: int, ticks: int, elapsed: float) -> dict[str, Any]:
    processor = sum(part.processor for part in parts)
    return {
        "name": "deciding",
        "compiled": not str(replicas.__file__).endswith(".py"),
        "processes": len(parts),
        "deployments": deployments,
        "ticks": ticks,
        "decisions_seconds": round(max(part.processor for part in parts), 4),
        "elapsed_seconds": round(elapsed, 4),
        "decision_microseconds": round(1e6 * processor / (deployments * ticks), 1),
        "decisions": hashlib.sha256(b"".join(one for part in parts for one in part.decided)).hexdigest()[:16],
    }


def compiled(deployments: int, ticks: int) -> list[dict[str, Any]]:
    """The rows of this bench where it imports the compiled operator."""
    with tempfile.TemporaryDirectory() as folder:
        asked = {**os.environ, "HEADRACE_COMPILE": "1"}  # noqa: TID251 - the command-line edge
        build = ["build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
        subprocess.run([Path(sys.executable).with_name("uv"), *build, OPERATOR], env=asked, check=True)
        wheel = next(Path(folder).glob("*.whl"))
        zipfile.ZipFile(wheel).extractall(folder)
        size = ["--deployments", str(deployments), "--ticks", str(ticks)]
        measure = [sys.executable, __file__, *size, "--json", f"{folder}/rows.json"]
        subprocess.run(measure, env={**asked, "PYTHONPATH": folder}, check=True)
        return json.loads(Path(folder, "rows.json").read_text())["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=500)
    parser.add_argument("--ticks", type=int, default=720, help="looks at each, every 5 s of simulated time")
    parser.add_argument(
        "--compiled", action="store_true", help="also as HEADRACE_COMPILE=1 builds it; needs a compiler"
    )
    add_json(parser)
    options = parser.parse_args()
    deployments, ticks = options.deployments, options.ticks
    if deployments < 1 or ticks < 1:
        parser.error("--deployments and --ticks must be whole numbers above 0")
    alone = measured(range(deployments), ticks)
    rows = [row([alone], deployments, ticks, alone.elapsed)]
    if (cores := os.cpu_count() or 1) > 1:
        parts, elapsed = spread(deployments, ticks, cores)
        rows.append(row(parts, deployments, ticks, elapsed))
    if options.compiled:
        rows += compiled(deployments, ticks)
    report(options.json, {"pods": PODS, "interval_seconds": INTERVAL, "kinds": KINDS}, rows)


if __name__ == "__main__":
    main()
