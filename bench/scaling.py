"""What the operator promises while it scales, on the real local cluster: no lost request, and soon.

    python bench/scaling.py --json -

Three measurements, each with a deployment of its own: one replica to eight and back under load, scale-downs under long
streams, and bursts on an idle replica. The model is examples/models/scripture-1m on the CPU, one thread a server.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from cluster import LocalCluster, NodeShape
from comparison.report import add_json, report
from demo import story
from deployments import manifest, pods, wait_ready
from elastic import bursts, rise, streams

NODES = (NodeShape("gpu-a", gpus=4), NodeShape("gpu-b", gpus=4))
ONE_THREAD = {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}
Part = tuple[str, dict[str, Any], int, Callable[[LocalCluster], dict[str, Any]]]  # name, spec, replicas at first


def parts(options: argparse.Namespace) -> dict[str, Part]:
    return {
        "rise": (
            rise.NAME,
            rise.spec(),
            1,
            lambda on: rise.measure(on, say, users=options.users, rush=options.rush, rest=options.rest),
        ),
        "streams": (
            streams.NAME,
            streams.spec(),
            streams.MOST,
            lambda on: streams.measure(
                on,
                say,
                users=options.streamers,
                streams=options.streams,
                scale_downs=options.scale_downs,
                tokens=options.tokens,
            ),
        ),
        "bursts": (bursts.NAME, bursts.spec(), 1, lambda on: bursts.measure(on, say, bursts=options.bursts)),
    }


def measured(cluster: LocalCluster, part: Part) -> dict[str, Any]:
    name, spec, replicas, measure = part
    cluster.apply(manifest(name, path="scripture-1m", pod=ONE_THREAD, **spec))
    wait_ready(cluster, name, replicas)
    found = measure(cluster)
    cluster.kubectl("delete", "infdep", name)
    cluster.wait(f"pods of {name} gone", lambda: not pods(cluster, name), timeout=300)
    say(json.dumps(found))
    return found


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", type=_names, default=("rise", "streams", "bursts"), help="rise,streams,bursts, or some of them")
    add("--users", type=_positive, default=40, help="of the load under which replicas rise")
    add("--rush", type=float, default=180.0, help="seconds of that load")
    add("--rest", type=float, default=180.0, help="seconds at most until one replica is left")
    add("--streams", type=_positive, default=1000)
    add("--streamers", type=_positive, default=50, help="streams at a time")
    add("--tokens", type=_positive, default=400, help="of a stream")
    add("--scale-downs", type=_positive, default=20)
    add("--bursts", type=_positive, default=10)
    add_json(parser)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text}; must be a whole number above 0")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    known = ("rise", "streams", "bursts")
    names = tuple(text.split(","))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"names {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def main() -> None:
    options = parsed(sys.argv[1:])
    chosen = [part for name, part in parts(options).items() if name in options.only]
    with (
        tempfile.TemporaryDirectory(prefix="scaling-") as directory,
        LocalCluster(Path(directory), nodes=NODES, images=story.IMAGES, report=say) as cluster,
    ):
        story.install(cluster)
        cluster.volume("default", "models", story.MODELS)
        rows = [measured(cluster, part) for part in chosen]
    report(options.json, {name: value for name, value in vars(options).items() if name != "json"}, rows)


if __name__ == "__main__":
    main()
