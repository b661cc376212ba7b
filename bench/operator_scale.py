"""The operator alone, at the size of a big cluster: 500 InferenceDeployments of 4 pods on a real API server.

    python bench/operator_scale.py --json -

Nodes and pods are played by one process, which answers a scrape of every pod at its own loopback address. The two sides
are the same minute without and with one pod that takes scrapes and never answers.
"""

import argparse
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from cluster import LocalCluster, users
from comparison.report import add_json, report
from kubelet_free import account, kubelet_free, manifest, operator
from operator_process import OperatorProcess

AT_ONCE = 50  # manifests of one `kubectl apply`, which may take a minute
NODE_PODS = 100  # of a node; Kubernetes' own limit is 110
TICK, LOOKS = "headrace_operator_reconcile_seconds", "headrace_operator_look_interval_seconds"
OURS = ("inferencedeployments", "pods", "events", "services", "controllerrevisions", "poddisruptionbudgets")
CALLS = re.compile(r'^apiserver_request_total\{.*[{,]resource="(\w+)".*[{,]verb="(\w+)".*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that only grows, at one moment."""

    at: float  # s
    processor: float  # s
    calls: float  # to the API server, about what the operator reads and writes
    metrics: str

    def buckets(self, histogram: str) -> dict[float, float]:
        """Cumulative counts by upper bound."""
        found = re.findall(rf'^{histogram}_bucket{{le="(\S+)"}} (\S+)$', self.metrics, re.MULTILINE)
        return {float(bound): float(count) for bound, count in found}


def read(cluster: LocalCluster, process: OperatorProcess) -> Reading:
    found = CALLS.findall(cluster.api.text("/metrics"))
    calls = sum(float(count) for resource, verb, count in found if resource in OURS and verb != "WATCH")
    return Reading(time.monotonic(), process.processor_seconds(), calls, process.metrics())


def quantile(before: Reading, after: Reading, histogram: str, share: float) -> float:
    """Seconds, within its bucket in proportion, as Prometheus does it."""
    early, late = before.buckets(histogram), after.buckets(histogram)
    grown = [(bound, late[bound] - early.get(bound, 0.0)) for bound in sorted(late)]
    wanted, low, below = share * grown[-1][1], 0.0, 0.0
    for bound, count in grown:
        if count >= wanted and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = (low if math.isinf(bound) else bound), count
    return low


def row(name: str, before: Reading, after: Reading, process: OperatorProcess) -> dict[str, Any]:
    seconds = after.at - before.at
    return {
        "name": name,
        "tick_p50_s": round(quantile(before, after, TICK, 0.5), 4),
        "tick_p99_s": round(quantile(before, after, TICK, 0.99), 4),
        "between_looks_p50_s": round(quantile(before, after, LOOKS, 0.5), 3),
        "between_looks_p99_s": round(quantile(before, after, LOOKS, 0.99), 3),
        "looks_per_s": round((after.buckets(TICK)[math.inf] - before.buckets(TICK)[math.inf]) / seconds, 1),
        "resident_mb": round(process.memory() / 1e6, 1),
        "processor_share": round((after.processor - before.processor) / seconds, 3),
        "api_calls_per_s": round((after.calls - before.calls) / seconds, 1),
    }


def measure(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    nodes = -(-options.deployments * options.pods // NODE_PODS)
    flags = (f"--nodes={nodes}", f"--gpus={NODE_PODS}", f"--load={options.load}", "--hang=scale-0-")
    with kubelet_free(directory, *flags) as (cluster, players):
        process = operator(cluster, own_kubeconfig(cluster), "scale", interval=options.interval)
        process.start()
        try:
            say("the deployments are applied")
            began = time.monotonic()
            for first in range(0, options.deployments, AT_ONCE):
                some = range(first, min(first + AT_ONCE, options.deployments))
                cluster.apply(*(manifest(f"scale-{n}", replicas=options.pods) for n in some))
            cluster.wait("all pods ready", lambda: are_ready(cluster, options), timeout=options.patience, interval=2)
            say(f"all pods are ready after {time.monotonic() - began:.0f} s")
            rows = []
            for name in ("every pod answers", "one pod never answers"):
                time.sleep(options.settle)
                before = read(cluster, process)
                time.sleep(options.seconds)
                rows.append(row(name, before, read(cluster, process), process))
                say(json.dumps(rows[-1]))
                os.kill(players.pid, signal.SIGUSR1)
            return rows
        finally:
            process.kill()


def own_kubeconfig(cluster: LocalCluster) -> Path:
    """The operator's own rights, as the chart gives them."""
    path = cluster.directory / "operator.kubeconfig"
    users.write_kubeconfig(path, cluster.api.server, cluster.directory / "control-plane" / "ca.crt", account(cluster))
    return path


def are_ready(cluster: LocalCluster, options: argparse.Namespace) -> bool:
    items = cluster.api.get("/apis/headrace.dev/v1alpha1/inferencedeployments")["items"]
    ready = sum(body.get("status", {}).get("readyReplicas", 0) for body in items)
    return bool(ready == options.deployments * options.pods)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--deployments", type=int, default=500)
    add("--pods", type=int, default=4, help="of each deployment")
    add("--interval", type=float, default=2.0, help="seconds between two looks at every object")
    add("--load", type=float, default=1.0, help="requests/s that each pod reports, in waves of 30 %%")
    add("--seconds", type=float, default=60.0, help="measured on each side")
    add("--settle", type=float, default=20.0, help="seconds before each side")
    add("--patience", type=float, default=600.0, help="seconds for all pods to become ready")
    add_json(parser)
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="operator-scale-") as directory:
        rows = measure(options, Path(directory))
    work = {name: getattr(options, name) for name in ("deployments", "pods", "interval", "load", "seconds")}
    report(options.json, work, rows)


if __name__ == "__main__":
    main()
