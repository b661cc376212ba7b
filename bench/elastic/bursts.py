"""From the first request that has to wait too long to the next pod, on a replica that was idle until then."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cluster import LocalCluster
from comparison.percentile import milliseconds
from demo import story
from elastic.pods import Life, Lives, follow, until
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

NAME = "bursts"
TARGET = 0.2  # seconds, the promise of the manifest
IDLE = 17.0  # seconds before a burst: arrivals are counted over 15, and the window is 5
PHASE = 4.0  # seconds; two looks: a burst comes at any moment between them
PATIENCE = 30.0  # seconds from a burst to its pod
USERS = 40  # of two slots: 38 wait, and each asks again when it is answered
TOKENS = 200

Fresh = Callable[[], AbstractContextManager[None]]  # a deployment that no burst has reached yet


def spec() -> dict[str, Any]:
    return {
        "autoscaling": {
            "minReplicas": 1,
            "maxReplicas": 2,
            "scaleDownWindow": "5s",
            "targets": {"queueWaitP95": f"{TARGET * 1000:.0f}ms"},
        },
        "batching": {"maxRunning": 2},
    }


@dataclass(slots=True)
class Burst:
    """Users who ask again as soon as they are answered, until the pod is there."""

    is_over: bool = False
    late: list[float] = field(default_factory=list)  # when those were sent that waited longer than TARGET; monotonic
    failures: Counter[str] = field(default_factory=Counter)

    async def ask(self, stub: inference_pb2_grpc.InferenceStub) -> None:
        request = pb.GenerateRequest(text=story.PROMPTS[0], max_new_tokens=TOKENS, ignore_eos=True)
        while not self.is_over:
            sent = time.monotonic()
            try:
                waits = [reply.usage.queue_wait_seconds async for reply in stub.Generate(request, timeout=120)]
            except grpc.aio.AioRpcError as error:
                self.failures[f"gRPC {error.code().name}: {error.details()}"] += 1
            else:
                if waits[-1] > TARGET:
                    self.late.append(sent)


async def burst(cluster: LocalCluster, lives: Lives) -> tuple[Burst, float]:
    """The burst, and the seconds from its first late request to the next pod. Raises TimeoutError without one."""
    if len(lives.present()) > 1:
        raise RuntimeError("an idle replica got a second one before any burst")
    before = {life.uid for life in lives.all()}

    def new() -> list[Life]:
        return [life for life in lives.all() if life.uid not in before]

    async with grpc.aio.insecure_channel(story.doors(cluster, NAME).grpc) as channel, asyncio.TaskGroup() as group:
        await channel.channel_ready()
        seen = Burst()
        stub = inference_pb2_grpc.InferenceStub(channel)
        for _ in range(USERS):
            group.create_task(seen.ask(stub))
        try:
            await until("the next pod", lambda: bool(new()), within=PATIENCE)
        finally:
            seen.is_over = True
    return seen, new()[0].came - min(seen.late)


def until_idle(cluster: LocalCluster, lives: Lives) -> None:
    cluster.wait("one replica", lambda: len(lives.present()) == 1, timeout=60)
    time.sleep(IDLE)


def measure(cluster: LocalCluster, say: story.Say, fresh: Fresh, *, bursts: int) -> dict[str, Any]:
    """One burst for each fresh deployment: after a burst the operator keeps replicas for the next one."""
    lives, delays, failures = follow(cluster, NAME), list[float](), Counter[str]()
    source = random.Random(0)
    while len(delays) < bursts:
        with fresh():
            until_idle(cluster, lives)
            time.sleep(source.uniform(0, PHASE))
            seen, delay = asyncio.run(burst(cluster, lives))
            failures.update(seen.failures)
            delays.append(delay)
            say(f"  a pod {delay:.2f} s after the first of {len(seen.late)} late requests was sent")
    return {
        "name": "from a queue to the next pod",
        "bursts": len(delays),
        "requests_failed": failures.total(),
        "failures": dict(failures),
        "pod_after_p50_ms": milliseconds(delays, 50),
        "pod_after_p95_ms": milliseconds(delays, 95),
        "pod_after_max_ms": milliseconds(delays, 100),
    }
