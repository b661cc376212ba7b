"""The decision against a fluid model of replicas: what it orders, what the load needs, how fast an hour is simulated.

    python bench/autoscaler.py --json -

The two sides are the replicas ordered at the peak, and those that the load would need at the target if it stayed there.
"""

import argparse
import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from fluid import TICK, Fluid
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed
from observations import deployment, pod, sample, scaling

HOUR = 3600.0  # s
REPLICA = 100.0  # tokens/s: 10 slots, 10 s a request, 100 tokens a request
UTILISATION = 0.7


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    load: Callable[[float], float]  # requests/s at a time in seconds
    peak: float  # requests/s
    cold_start: float  # s


def noise(now: float) -> float:
    return 5 * random.Random(int(now / TICK)).uniform(0.7, 1.3)


SCENARIOS = (
    Scenario("step 1 -> 8 -> 1 requests/s", lambda now: 8.0 if 300 <= now < 2100 else 1.0, 8.0, 90.0),
    Scenario("noise of 30 % around 5 requests/s", noise, 5.0, 90.0),
    Scenario("spike of 10 s to 16 requests/s", lambda now: 16.0 if 600 <= now < 610 else 1.0, 16.0, 90.0),
)


def row(scenario: Scenario) -> dict[str, Any]:
    policy = scaling(min_replicas=2, max_replicas=32)
    run = Fluid(
        deployment(scaling=policy),
        scenario.load,
        history=History(capacity=REPLICA, work_per_request=100.0),
        cold_start=scenario.cold_start,
    )
    began = time.process_time()
    run.run(HOUR)
    took = time.process_time() - began
    return {
        "name": scenario.name,
        "needed_at_peak_replicas": -(-scenario.peak * 100 // (REPLICA * UTILISATION)),
        "ordered_at_peak_replicas": max(run.desired()),
        "changes": len(run.changes()),
        "reversals": run.reversals(),
        "simulated_hour_seconds": round(took, 2),
    }


def cost(ticks: int = 7200) -> dict[str, Any]:
    """Of one tick of a deployment with four pods, and of 500 such deployments over an hour of ticks of 5 s."""
    rng, received, given = random.Random(1), 0.0, deployment()
    history = History(capacity=REPLICA, work_per_request=100.0, desired=4)
    measuring = deciding = 0.0
    for index in range(ticks):
        now, received = 1000.0 + 5 * index, received + 3 * rng.uniform(0.7, 1.3)
        load = sample(
            at=now, running=rng.randint(20, 30), received=received, finished=received, tokens=100 * received,
            finished_tokens=100 * received, queue_waits=((0.01, 0.9 * received), (math.inf, received)),
        )  # fmt: skip
        pods = Observed(tuple(replace(pod(ordinal), sample=load) for ordinal in range(4)))
        began = time.process_time()
        history, signals = measure(pods, history, now)
        situation = look(given.scaling, pods, signals, history, now)
        measured = time.process_time()
        decision = decide(situation)
        history = remembered(history, decision, now)
        measuring += measured - began
        deciding += time.process_time() - measured
    return {
        "measure_microseconds": round(measuring / ticks * 1e6, 1),
        "decide_microseconds": round(deciding / ticks * 1e6, 1),
        "hour_of_500_deployments_seconds": round((measuring + deciding) / ticks * 500 * HOUR / 5, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="-", help="where to write the result; - is stdout")
    options = parser.parse_args()
    result = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "work": {"seconds": HOUR, "tick_seconds": TICK, "utilisation": UTILISATION, "cold_start_seconds": 90},
        "rows": [row(scenario) for scenario in SCENARIOS],
        "cost": cost(),
    }
    text = json.dumps(result, indent=2)
    if options.json == "-":
        print(text)
    else:
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
