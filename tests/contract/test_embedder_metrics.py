"""The operator scales a deployment that embeds on the numbers it knows: a text is a request."""

import asyncio

from headrace_operator.observe.exposition import parse
from headrace_server.config import EngineConfig
from headrace_server.embedding import EmbedAsk
from headrace_server.request import Priority
from minilm import running
from prometheus_client import CollectorRegistry, generate_latest
from scripted_lane import ScriptedLane, scripted


async def test_texts_are_demand_and_offline_texts_are_none() -> None:
    lane, registry = ScriptedLane(), CollectorRegistry()
    async with running(scripted(lane), EngineConfig(max_running=2, max_waiting=3), registry) as engine:
        done = await engine.embed(EmbedAsk(("abc", "de"), priority=Priority.INTERACTIVE))
        await engine.embed(EmbedAsk(("offline",), priority=Priority.BATCH))
        lane.gate.clear()
        busy = [
            asyncio.create_task(engine.embed(EmbedAsk(("f", "g", "h"), priority=each)))
            for each in (Priority.STANDARD, Priority.BATCH)
        ]
        async with asyncio.timeout(300):
            while engine.load().waiting + engine.load().running < 6:
                await asyncio.sleep(0.002)
        sample = parse(generate_latest(registry).decode(), at=1.0)
        lane.gate.set()
        await asyncio.gather(*busy)

    assert sum(done.tokens) == 5
    assert (sample.received, sample.finished, sample.finished_tokens) == (5, 2, 5)
    assert sample.waiting + sample.running == 3
    assert sample.max_running == 2
    assert sample.tokens == 12, "what a replica carries is all that it computes"
    assert sum(count for bound, count in sample.queue_waits if bound == float("inf")) >= 2
