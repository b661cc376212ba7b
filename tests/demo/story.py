"""The demo's acts, in order. Each act returns what the summary and the end-to-end tests judge."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import LocalCluster

from demo.timeline import Timeline, status_of
from demo.users import Answers, Doors, Habit, converse, converse_until

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
MANIFEST = ROOT / "examples" / "scripture.yaml"
PROGRAMS = Path(sys.executable).parent  # this virtual environment stands for all images
IMAGES = {f"headrace-{each}": PROGRAMS for each in ("operator", "server", "router")}
CHART = ROOT / "charts" / "headrace"
RELEASE_NAMESPACE = "headrace-system"
NAME = "scripture"  # the InferenceDeployment of the manifest
PROMPTS = ("In the beginning", "And the king said unto", "Blessed are they that", "Now it came to pass in those days")
RUSHED = Habit(PROMPTS)
CALM = Habit(PROMPTS, max_new_tokens=16, pause=1.0)
LONGEST_START = 300.0  # seconds until a replica is ready, on a slow machine
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo promises, as facts."""

    answers: Answers
    timeline: Timeline
    min_replicas: int
    ready_at_end: int

    @property
    def broken_promises(self) -> list[str]:
        broken = []
        if self.answers.failed:
            broken.append(
                f"{self.answers.failed} of {self.answers.sent} requests failed: {dict(self.answers.failures)}"
            )
        if self.timeline.peak_ready <= self.min_replicas:
            broken.append(f"the load never scaled {NAME} above {self.min_replicas} ready replicas")
        if self.ready_at_end != self.min_replicas:
            broken.append(f"{self.ready_at_end} replicas were ready at the end, not minReplicas ({self.min_replicas})")
        return broken


def install(cluster: LocalCluster) -> None:
    """`helm install`, as the README says. The operator runs under its own service account from here on."""
    cluster.helm(
        "install",
        "headrace",
        str(CHART),
        "--namespace",
        RELEASE_NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "300s",
    )


def apply(cluster: LocalCluster, manifest: Path = MANIFEST) -> None:
    """The models' volume, then the manifest."""
    cluster.volume("default", "models", MODELS)
    cluster.kubectl("apply", "-f", str(manifest))


def doors(cluster: LocalCluster, name: str = NAME) -> Doors:
    """The Service's addresses, as a client in the cluster would resolve them."""
    service = json.loads(cluster.kubectl("get", "service", name, "-o", "json"))
    address = service["spec"]["clusterIP"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    return Doors(grpc=f"{address}:{ports['grpc']}", http=f"http://{address}:{ports['http']}", model=name)


async def watch(cluster: LocalCluster, say: Say, name: str = NAME) -> tuple[Timeline, "asyncio.Task[None]"]:
    async def kubectl(*words: str) -> str:
        return await asyncio.to_thread(cluster.kubectl, *words)

    async def fetch() -> dict[str, Any]:
        return await status_of(kubectl, name)

    timeline = Timeline(fetch, say)
    return timeline, asyncio.create_task(timeline.run())


async def rush_and_rest(
    cluster: LocalCluster, say: Say, *, users: int, rush: float, rest: float, name: str = NAME
) -> Outcome:
    """Overload the deployment for `rush` seconds, then let it go quiet until it is back at its minimum.

    Where a start takes longer than the rush, the rush goes on until another replica is ready. Two slow users stay.
    `rest` bounds the quiet time in seconds: the scale-down window, the drain and some slack.
    """
    place = doors(cluster, name)
    answers = Answers()
    timeline, watching = await watch(cluster, say, name)
    minimum = json.loads(cluster.kubectl("get", "infdep", name, "-o", "json"))["spec"]["autoscaling"]["minReplicas"]
    try:
        say(f"\n{users} users ask again as soon as they are answered, for {rush:.0f} s:")
        await converse_until(place, users, _is_rush_over(timeline, minimum, rush), RUSHED, answers)
        say("\nThe users leave; two ask slowly on, so that a lost request would be seen:")
        quiet = asyncio.create_task(converse(place, 2, rest, CALM, answers))
        ready = await _until_ready_is(timeline, minimum, rest)
        quiet.cancel()
        await asyncio.gather(quiet, return_exceptions=True)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return Outcome(answers, timeline, minimum, ready)


def _is_rush_over(timeline: Timeline, minimum: int, seconds: float) -> Callable[[], bool]:
    began = time.monotonic()

    def is_over() -> bool:
        passed = time.monotonic() - began
        return passed >= seconds and (timeline.peak_ready > minimum or passed >= seconds + LONGEST_START)

    return is_over


async def _until_ready_is(timeline: Timeline, wanted: int, seconds: float) -> int:
    """Ready replicas once they are `wanted` (and meant to stay so), or when the time is up."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    last = timeline.samples[-1]
    while loop.time() < until:
        last = timeline.samples[-1]
        if last.ready == wanted == last.desired:
            break
        await asyncio.sleep(0.5)
    return last.ready
