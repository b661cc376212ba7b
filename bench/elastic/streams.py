"""Long streams while replicas leave again and again: is any of them broken?

Mode External, so that `kubectl scale` says when. Users go on until both are reached, the scale-downs and the streams,
and the scale-downs are spread over the streams.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import grpc
from cluster import LocalCluster
from comparison.percentile import milliseconds
from demo import story
from demo.users import Doors
from elastic.pods import Life, Lives, follow, running, until
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

NAME = "streams"
MOST = 3  # replicas; down to 1 in single steps, then up again
PATIENCE = 300.0  # seconds for a step, and for one stream
PROMPT = story.PROMPTS[0]


def spec() -> dict[str, Any]:
    return {
        "replicas": MOST,
        "autoscaling": {"mode": "External", "minReplicas": 1, "maxReplicas": MOST},
        "batching": {"maxRunning": 64},
        "drain": {"timeout": "240s"},
    }


@dataclass(slots=True)
class Tally:
    started: int = 0
    broken: Counter[str] = field(default_factory=Counter)  # by what the client saw
    seconds: list[float] = field(default_factory=list)  # of the whole ones

    def ended(self, tokens: int, wanted: int, began: float) -> None:
        """A stream that ends early without an error is broken all the same."""
        if tokens == wanted:
            self.seconds.append(time.monotonic() - began)
        else:
            self.broken[f"{tokens} of {wanted} tokens"] += 1


@dataclass(frozen=True, slots=True)
class Leaving:
    """One scale-down."""

    inside: float  # streams that ran in the pod when it left the Service
    drain: float  # seconds from there until the pod was gone


async def over_grpc(doors: Doors, tokens: int, tally: Tally, is_enough: Callable[[], bool]) -> None:
    """One connection for all of a user's streams: the server has to tell it to move."""
    async with grpc.aio.insecure_channel(doors.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        while not is_enough():
            tally.started, began = tally.started + 1, time.monotonic()
            request = pb.GenerateRequest(text=PROMPT, max_new_tokens=tokens, temperature=0.8, ignore_eos=True)
            try:
                parts = [len(reply.token_ids) async for reply in stub.Generate(request, timeout=PATIENCE)]
            except grpc.aio.AioRpcError as error:
                tally.broken[f"gRPC {error.code().name}: {error.details()}"] += 1
            else:
                tally.ended(sum(parts), tokens, began)


async def over_http(doors: Doors, tokens: int, tally: Tally, is_enough: Callable[[], bool]) -> None:
    """A connection for each stream."""
    body = {"model": doors.model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    while not is_enough():
        tally.started, began = tally.started + 1, time.monotonic()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
                session.post(f"{doors.http}/v1/completions", json=body) as answer,
            ):
                lines = [line async for line in answer.content if b'"usage":{' in line or answer.status != 200]
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.broken[f"HTTP {type(error).__name__}: {error}"] += 1
            continue
        if answer.status == 200:
            tally.ended(counted(lines), tokens, began)
        else:
            tally.broken[f"HTTP {answer.status}: {b''.join(lines).decode()}"] += 1


def counted(lines: list[bytes]) -> int:
    """Tokens, as the last event of a whole stream tells them; 0 where it did not come."""
    return int(json.loads(lines[-1].removeprefix(b"data: "))["usage"]["completion_tokens"]) if lines else 0


@dataclass(frozen=True, slots=True)
class Scale:
    cluster: LocalCluster
    lives: Lives
    say: story.Say

    async def to(self, replicas: int) -> None:
        await asyncio.to_thread(self.cluster.kubectl, "scale", f"infdep/{NAME}", f"--replicas={replicas}")

    async def up(self) -> None:
        await self.to(MOST)
        await until(f"{MOST} replicas", lambda: len(self.lives.present()) == MOST, within=PATIENCE)
        await asyncio.to_thread(self.cluster.wait, f"{MOST} ready", self._all_ready, timeout=PATIENCE)

    async def down(self, replicas: int) -> Leaving:
        """Every pod has streams before one leaves."""
        await asyncio.to_thread(self.cluster.wait, "streams in every pod", self._all_busy, timeout=PATIENCE)
        before = {life.uid for life in self.lives.unrouted()}

        def leaving() -> list[Life]:
            return [life for life in self.lives.unrouted() if life.uid not in before]

        await self.to(replicas)
        await until("a pod leaves the Service", lambda: bool(leaving()), within=PATIENCE)
        (life,) = leaving()
        inside = await asyncio.to_thread(running, life)
        await until("it is gone", lambda: life.gone is not None, within=PATIENCE)
        took = (life.gone or 0.0) - (life.left_service or 0.0)
        self.say(f"  down to {replicas}: {life.name} left with {inside:.0f} streams inside, gone after {took:.1f} s")
        return Leaving(inside, took)

    def _all_busy(self) -> bool:
        return all(running(life) for life in self.lives.present())

    def _all_ready(self) -> bool:
        return bool(self.cluster.object("infdep", NAME)["status"]["readyReplicas"] == MOST)


async def play(scale: Scale, tally: Tally, *, users: int, streams: int, scale_downs: int, tokens: int) -> list[Leaving]:
    doors, leavings = story.doors(scale.cluster, NAME), list[Leaving]()

    def is_enough() -> bool:
        return tally.started >= streams and len(leavings) >= scale_downs

    def is_time(number: int) -> bool:
        return tally.started >= number * streams // scale_downs

    async def go_down() -> None:
        for number in range(scale_downs):
            replicas = MOST - 1 - number % (MOST - 1)
            if replicas == MOST - 1:
                await scale.up()
            await until("its share of the streams", partial(is_time, number), within=PATIENCE)
            leavings.append(await scale.down(replicas))

    async with asyncio.TaskGroup() as group:
        for number in range(users):
            ask = over_grpc if number % 2 == 0 else over_http
            group.create_task(ask(doors, tokens, tally, is_enough))
        group.create_task(go_down())
    return leavings


def measure(cluster: LocalCluster, say: story.Say, **work: int) -> dict[str, Any]:
    """`work`: users, streams, scale_downs, and tokens of each stream."""
    tally = Tally()
    scale = Scale(cluster, follow(cluster, NAME), say)
    leavings = asyncio.run(play(scale, tally, **work))
    drains, inside = [one.drain for one in leavings], sorted(one.inside for one in leavings)
    return {
        "name": "scale-downs under long streams",
        "scale_downs": len(leavings),
        "streams_started": tally.started,
        "streams_broken": tally.broken.total(),
        "broken": dict(tally.broken),
        "streams_inside_least": inside[0],
        "streams_inside_p50": inside[len(inside) // 2],
        "streams_inside_sum": sum(inside),
        "stream_p50_ms": milliseconds(tally.seconds, 50),
        "drain_p50_ms": milliseconds(drains, 50),
        "drain_p95_ms": milliseconds(drains, 95),
    }
