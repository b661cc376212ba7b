"""What the operator promises while it scales, on the real local cluster: no lost request, and soon.

    python bench/scaling.py --json -

Four measurements, each with a deployment of its own: one replica to eight and back under load, scale-downs under long
streams, bursts on an idle replica, and replicas that are lost while a standby is warm.
The model is examples/models/scripture-1m on the CPU, one thread a server.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from cluster import LocalCluster, NodeShape
from comparison.report import add_json, report
from demo import story
from deployments import manifest, pods, wait_ready
from elastic import bursts, rise, standby, streams

NODES = (NodeShape("gpu-a", gpus=4), NodeShape("gpu-b", gpus=4))
ONE_THREAD = {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}
PARTS = ("rise", "streams", "bursts", "standby")
Measure = Callable[[], dict[str, Any]]


def parts(options: argparse.Namespace, cluster: LocalCluster) -> dict[str, Measure]:
    def on_rise() -> dict[str, Any]:
        with deployed(cluster, rise.NAME, rise.spec(), 1):
            return rise.measure(cluster, say, users=options.users, rush=options.rush, rest=options.rest)

    def on_streams() -> dict[str, Any]:
        counts = {"streams": options.streams, "scale_downs": options.scale_downs, "tokens": options.tokens}
        with deployed(cluster, streams.NAME, streams.spec(), streams.MOST):
            return streams.measure(cluster, say, users=options.streamers, **counts)

    def on_bursts() -> dict[str, Any]:
        fresh = partial(deployed, cluster, bursts.NAME, bursts.spec(), 1)
        return bursts.measure(cluster, say, fresh, bursts=options.bursts)

    def on_standby() -> dict[str, Any]:
        with deployed(cluster, standby.NAME, standby.spec(), 1):
            return standby.measure(cluster, say, losses=options.losses)

    return {"rise": on_rise, "streams": on_streams, "bursts": on_bursts, "standby": on_standby}


@contextmanager
def deployed(cluster: LocalCluster, name: str, spec: dict[str, Any], replicas: int) -> Iterator[None]:
    """So many replicas Ready; at the end all pods are gone."""
    cluster.apply(manifest(name, path="scripture-1m", pod=ONE_THREAD, **spec))
    wait_ready(cluster, name, replicas)
    yield
    cluster.kubectl("delete", "infdep", name)
    cluster.wait(f"pods of {name} gone", lambda: not pods(cluster, name), timeout=300)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", type=_names, default=PARTS, help=f"{','.join(PARTS)}, or some of them")
    add("--users", type=_positive, default=40, help="of the load under which replicas rise")
    add("--rush", type=float, default=180.0, help="seconds of that load")
    add("--rest", type=float, default=180.0, help="seconds at most until one replica is left")
    add("--streams", type=_positive, default=1000)
    add("--streamers", type=_positive, default=50, help="streams at a time")
    add("--tokens", type=_positive, default=400, help="of a stream")
    add("--scale-downs", type=_positive, default=20)
    add("--bursts", type=_positive, default=10)
    add("--losses", type=_positive, default=10, help="of a replica with a warm standby")
    add_json(parser)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text}; must be a whole number above 0")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"names {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    return names


def main() -> None:
    options = parsed(sys.argv[1:])
    with (
        tempfile.TemporaryDirectory(prefix="scaling-") as directory,
        LocalCluster(Path(directory), nodes=NODES, images=story.IMAGES, report=say) as cluster,
    ):
        story.install(cluster)
        cluster.volume("default", "models", story.MODELS)
        rows = []
        for name, measure in parts(options, cluster).items():
            if name in options.only:
                rows.append(measure())
                say(json.dumps(rows[-1]))
    report(options.json, {name: value for name, value in vars(options).items() if name != "json"}, rows)


if __name__ == "__main__":
    main()
