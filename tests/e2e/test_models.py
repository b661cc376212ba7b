"""A small and a large model at one address, as docs/router.md tells a user of the chart: who answers, what it costs."""

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cluster import LocalCluster
from dashboards import models
from demo import story
from demo.users import Doors
from deployments import manifest, pods, wait_ready
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from model_routers import LARGE, ROUTERS, SMALL, found, installed
from openai import OpenAI
from prometheus_server import Prometheus, prometheus

pytestmark = pytest.mark.e2e
SURE = "And the LORD spake unto Moses, saying,"  # the small model's mean log-probability: -0.6
UNSURE = ("def main():", "zq xv")  # -2.0
TOKENS = 8


@pytest.fixture
def both(cluster: LocalCluster) -> Iterator[None]:
    names = (SMALL, LARGE)
    for name in names:
        cluster.apply(manifest(name, path=name, autoscaling={"minReplicas": 1, "maxReplicas": 1}))
    try:
        for name in names:
            wait_ready(cluster, name, 1)
        yield
    finally:
        cluster.kubectl("delete", "infdep", *names)
        cluster.wait("their pods gone", lambda: not any(pods(cluster, name) for name in names))


@pytest.fixture
def routers(cluster: LocalCluster, both: None, tmp_path: Path) -> Iterator[Doors]:
    with installed(cluster, tmp_path) as place:
        yield place


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Prometheus]:
    with prometheus(story.CHART / "files" / "alerts.yaml", tmp_path) as server:
        yield server


def test_a_small_and_a_large_model_answer_at_one_address(
    cluster: LocalCluster, routers: Doors, watched: Prometheus
) -> None:
    watched.find(found(cluster))
    cluster.wait("routers are scraped", lambda: watched.targets().get("headrace-routers") == ["up", "up"])
    chat, small, large = (Client(story.doors(cluster, name)) for name in (ROUTERS, SMALL, LARGE))
    assert chat.whole(SURE) == ("small", small.whole(SURE)[1])
    for prompt in UNSURE:
        assert chat.whole(prompt) == ("large", large.whole(prompt)[1])
    for headers, direct in (({}, small), ({"x-tier": "premium"}, large)):
        said = asyncio.run(direct.generated(UNSURE[0], {}))
        assert chat.streamed(UNSURE[0], headers) == said
        assert asyncio.run(chat.generated(UNSURE[0], headers)) == said
    rows = [row for pod in found(cluster) for row in report(pod)]
    assert requests_of(rows, "small") == 1 + len(UNSURE) + 2
    assert requests_of(rows, "large") == len(UNSURE) + 2
    assert all(float(row[4]) > 0 for row in rows), "replicas cost something in every router's eyes"

    def empty() -> list[str]:
        """The dashboard's queries that find nothing. Rates need two scrapes, and requests between them."""
        for prompt in (SURE, *UNSURE):
            chat.whole(prompt)
        chosen = {"$namespace": "default", "$router": ROUTERS, "$__rate_interval": "15s"}
        return [query.expr for query in models.BOARD.queries if not watched.query(filled(query.expr, chosen))]

    cluster.wait("every query of the dashboard finds something", lambda: not empty())


class Client:
    """Asks what is likeliest, so that equal models say equal words."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._openai = OpenAI(base_url=f"{doors.http}/v1", api_key="unused", max_retries=0)

    def whole(self, prompt: str) -> tuple[str | None, str]:
        """Which model answered, as the router says, and its answer."""
        raw = self._openai.completions.with_raw_response
        answer = raw.create(model=self._doors.model, prompt=prompt, max_tokens=TOKENS, temperature=0)
        return answer.headers.get("x-headrace-model"), answer.parse().choices[0].text

    def streamed(self, prompt: str, headers: dict[str, str]) -> str:
        chunks = self._openai.completions.create(
            model=self._doors.model, prompt=prompt, max_tokens=TOKENS, temperature=0, stream=True, extra_headers=headers
        )
        return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)

    async def generated(self, prompt: str, metadata: dict[str, str]) -> str:
        async with grpc.aio.insecure_channel(self._doors.grpc) as channel:
            request = pb.GenerateRequest(text=prompt, max_new_tokens=TOKENS)
            stub = inference_pb2_grpc.InferenceStub(channel)
            return "".join([reply.text async for reply in stub.Generate(request, metadata=[*metadata.items()])])


def report(pod: dict[str, Any]) -> list[list[str]]:
    """A router's table of its models: the rows under its head."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/models", timeout=60) as answer:
        table, _, _ = answer.read().decode().partition("\n\n")
    return [line.split() for line in table.splitlines()[1:]]


def requests_of(rows: list[list[str]], model: str) -> int:
    return sum(int(row[1]) for row in rows if row[0] == model)


def filled(text: str, values: dict[str, str]) -> str:
    for variable, value in values.items():
        text = text.replace(variable, value)
    return text
