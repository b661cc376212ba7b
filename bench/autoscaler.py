"""Headrace's decision and other autoscalers on a recorded trace and on the stress catalogue, in one table.

    python bench/autoscaler.py --trace azure_llm_code_2023.csv --scale 1,3 --json - --plots docs

Constants were chosen on the shipped trace and on synthetic load: another trace is the better judge. Rows are those of
`headrace simulate`. `front` rows are policies at several targets each: where every one of them stands between requests
that wait and replica-hours, so that nobody is judged by one default. The last row is what the operator's decision takes
of a processor.
"""

import argparse
import math
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.report import add_json, report
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed
from headrace_operator.service import Scaling
from headrace_operator.simulate import plot
from headrace_operator.simulate.catalogue import CATALOGUE
from headrace_operator.simulate.comparison import Comparison, run
from headrace_operator.simulate.traces import Request, read, scaled
from observations import deployment, pod, sample

HOUR = 3600.0  # s
LEAD_IN = 600.0  # s
SCALING = Scaling(4, 64, queue_wait_target=0.5, utilization=0.7, scale_down_window=300.0)  # the CRD's defaults
EVERYBODY = (
    "headrace", "headrace-forecast", "hpa-waiting", "hpa-concurrency", "hpa-queue-wait", "kpa", "keda", "ray", "wva-v1",
    "wva-v2", "dynamo", "aibrix", "oracle",
)  # fmt: skip
STRESSED = ("headrace", "headrace-forecast", "hpa-queue-wait", "hpa-queue-wait:0.5", "keda", "kpa", "ray", "oracle")
FRONT = {
    "headrace": (0.4, 0.55, 0.7, 0.85, 1.0), "hpa-queue-wait": (0.25, 0.35, 0.5, 0.75, 1.0, 2.0), "ray": (1, 2, 4, 8),
    "hpa-concurrency": (0.05, 0.1, 0.2), "keda": (0.5, 1, 2), "kpa": (0.05, 0.1, 0.2),
    "static": (8, 12, 16, 24, 32, 48), "oracle": (0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
}  # fmt: skip
DRAWN = ("headrace", "hpa-queue-wait", "ray", "oracle")


def halves(requests: list[Request]) -> dict[str, list[Request]]:
    middle = requests[-1].at / 2
    late = [request._replace(at=request.at - middle) for request in requests if request.at >= middle]
    early = [request for request in requests if request.at < middle]
    return {"first half": early, "second half": late, "whole": requests}


def trace_rows(path: Path, scale: float, plots: Path | None) -> list[dict[str, Any]]:
    rows = []
    for part, requests in halves(scaled(read(path), scale)).items():
        comparison = Comparison(requests, SCALING, lead_in=LEAD_IN)
        runs = [run(comparison, name) for name in EVERYBODY]
        rows += [{"case": f"{path.stem} x{scale:g}, {part}", **one.row} for one in runs]
        if plots and part == "whole":
            drawn = [one for one in runs if one.name in DRAWN]
            plot.write(plots / f"autoscaling-{path.stem}-x{scale:g}.svg", comparison, drawn)
    return rows


def front_rows(path: Path, scale: float) -> list[dict[str, Any]]:
    requests = halves(scaled(read(path), scale))["second half"]
    comparison = Comparison(requests, SCALING, lead_in=LEAD_IN)
    names = [f"{kind}:{target:g}" for kind, targets in FRONT.items() for target in targets]
    return [{"case": f"front, {path.stem} x{scale:g}, second half", **run(comparison, name).row} for name in names]


def stress_rows() -> list[dict[str, Any]]:
    rows = []
    for stress in CATALOGUE:
        print(stress.name, file=sys.stderr, flush=True)
        comparison = stress.comparison()
        rows += [{"case": stress.name, "need": stress.need, **run(comparison, name).row} for name in STRESSED]
    return rows


def cost(ticks: int = 2000) -> dict[str, Any]:
    """Of a look at a deployment with four pods, and of 500 such deployments over an hour of looks every 5 s."""
    rng, received, given, looks = random.Random(1), 0.0, deployment(), []
    for index in range(ticks):
        now, received = 1000.0 + 5 * index, received + 3 * rng.uniform(0.7, 1.3)
        load = sample(
            at=now, running=rng.randint(20, 30), received=received, finished=received, tokens=100 * received,
            finished_tokens=100 * received, queue_waits=((0.01, 0.9 * received), (math.inf, received)),
        )  # fmt: skip
        looks.append((now, Observed(tuple(replace(pod(ordinal), sample=load) for ordinal in range(4)))))
    history = History(capacity=100.0, work_per_request=100.0, desired=4)
    began = time.process_time()
    for now, pods in looks:
        history, signals = measure(pods, history, now)
        history = remembered(history, decide(look(given.scaling, pods, signals, history, now)), now)
    took = (time.process_time() - began) / ticks
    return {
        "name": "one decision, four pods",
        "look_microseconds": round(took * 1e6, 1),
        "hour_of_500_deployments_seconds": round(took * 500 * HOUR / 5, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="without it, the stress catalogue alone")
    parser.add_argument("--scale", default="1,3", help="times the trace's rate; several with commas")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where pictures of the whole trace go")
    add_json(parser)
    options = parser.parse_args()
    rows = []
    if options.trace:
        for scale in options.scale.split(","):
            rows += trace_rows(options.trace, float(scale), options.plots)
            rows += front_rows(options.trace, float(scale))
    work = {"slo_seconds": 1.0, "cold_start_seconds": 90.0, "min_replicas": 4, "max_replicas": 64}
    report(options.json, work, [*rows, *stress_rows(), cost()])


if __name__ == "__main__":
    main()
