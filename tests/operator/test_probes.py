"""What the kubelet and Prometheus are told, over HTTP."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from headrace_operator.probes import serve, trouble
from prometheus_client import CollectorRegistry, Gauge


class Told:
    """What the probes are told; a test changes it while they listen."""

    def __init__(self) -> None:
        self.silent = 0.0
        self.watches_ended: str | None = None
        self.is_ready = True
        self.url = ""

    async def ask(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    registry = CollectorRegistry()
    Gauge("answer", "to everything", registry=registry).set(42)
    now = Told()
    runner = await serve("127.0.0.1", 0, registry, lambda: trouble(now.silent, now.watches_ended), lambda: now.is_ready)
    now.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield now
    await runner.cleanup()


@pytest.mark.parametrize(
    ("silent", "watches_ended", "expected"),
    [
        pytest.param(0.1, None, (200, "ok"), id="it turns"),
        pytest.param(60.0, None, (200, "ok"), id="a slow turn"),
        pytest.param(61.0, None, (500, "no turn for 61 s"), id="the loop stands still"),
        pytest.param(0.1, "LoginError()", (500, "the watches ended: LoginError()"), id="changes are not heard"),
    ],
)
async def test_health_is_a_loop_that_turns_and_hears(
    told: Told, silent: float, watches_ended: str | None, expected: tuple[int, str]
) -> None:
    told.silent, told.watches_ended = silent, watches_ended
    assert await told.ask("/healthz") == expected


async def test_ready_is_who_has_listed_everything(told: Told) -> None:
    assert await told.ask("/readyz") == (200, "ok")
    told.is_ready = False
    assert await told.ask("/readyz") == (503, "first list not done")


async def test_metrics_are_there(told: Told) -> None:
    status, text = await told.ask("/metrics")
    assert (status, "answer 42.0" in text) == (200, True)
