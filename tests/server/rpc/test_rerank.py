"""Ranking at both doors: by a cross-encoder, by the cosine of vectors, and refused where neither is served."""

import json
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from embed_server import CROSS, FACTS, EmbedServer, FixedEmbedder, embed_server, vector_of
from headrace_server.embedding import EmbedAsk, Input, Pair
from headrace_server.request import Priority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.ranking import Match, Side, judged
from open_server import NAME, open_server
from scripted_runner import ScriptedRunner

QUERY = "a b c"
DOCUMENTS = ["x", "a b", "a b c", "a"]  # words in common with the query: 0, 2, 3, 1
BEST = [2, 1, 3, 0]


async def post(base: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = json.dumps({"model": NAME} | body)
    async with aiohttp.ClientSession(base) as session, session.post(path, data=data) as response:
        return response.status, await response.json()


def sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def cosine(one: str, other: str) -> float:
    return float(vector_of(one) @ vector_of(other))


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_a_cross_encoder_ranks_pairs(model: Path, path: str) -> None:
    async with embed_server(model, facts=CROSS) as server:
        status, answer = await post(server.http, path, {"query": QUERY, "documents": DOCUMENTS})
        [ask] = server.embedder.asked
    assert status == 200
    assert [one["index"] for one in answer["results"]] == BEST
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx([*map(sigmoid, (1, 0, -1, -2))])
    assert ask.inputs == tuple(Pair(QUERY, document) for document in DOCUMENTS)
    tokens = sum(len(QUERY) + len(document) for document in DOCUMENTS)
    assert (answer["object"], answer["model"]) == ("rerank", NAME)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_an_embedder_ranks_by_the_cosine(model: Path) -> None:
    async with embed_server(model) as server:
        _, answer = await post(server.http, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})
        [ask] = server.embedder.asked
    expected = {place: cosine(QUERY, document) for place, document in enumerate(DOCUMENTS)}
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert found == pytest.approx(expected, abs=1e-6)
    assert [*found] == sorted(expected, key=lambda place: -expected[place])
    assert ask.normalise is True


@pytest.mark.parametrize(
    ("facts", "extra", "scores"),
    [
        pytest.param(CROSS, {"raw_scores": True}, [1, 0, -1, -2], id="raw"),
        pytest.param(replace(CROSS, bounds_scores=False), {}, [1, 0, -1, -2], id="a checkpoint without a sigmoid"),
        pytest.param(CROSS, {"top_n": 2}, [sigmoid(1), sigmoid(0)], id="the best"),
        pytest.param(CROSS, {"top_n": 9}, [*map(sigmoid, (1, 0, -1, -2))], id="more than there are"),
    ],
)
async def test_how_scores_are_given(model: Path, facts: Any, extra: dict[str, Any], scores: list[float]) -> None:
    async with embed_server(model, facts=facts) as server:
        _, answer = await post(server.http, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS} | extra)
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(scores)


async def test_documents_come_back_when_asked_for_and_may_be_objects(model: Path) -> None:
    given = {"query": QUERY, "documents": [{"text": "x"}, "a b"], "return_documents": True}
    async with embed_server(model, facts=CROSS) as server:
        _, answer = await post(server.http, "/v1/rerank", given)
        _, plain = await post(server.http, "/v1/rerank", given | {"return_documents": False})
    assert [one["document"] for one in answer["results"]] == [{"text": "a b"}, {"text": "x"}]
    assert all(one.keys() == {"index", "relevance_score"} for one in plain["results"])


async def test_equal_scores_keep_the_callers_order(model: Path) -> None:
    async with embed_server(model, facts=CROSS) as server:
        _, answer = await post(server.http, "/v1/rerank", {"query": QUERY, "documents": ["x", "y", "z"]})
    assert [one["index"] for one in answer["results"]] == [0, 1, 2]


SCORED: list[Any] = [
    pytest.param("a b", ["a b", "x"], [("a b", "a b"), ("a b", "x")], id="one with each"),
    pytest.param(["a", "b"], ["b", "b"], [("a", "b"), ("b", "b")], id="each with its own"),
    pytest.param("a", "b", [("a", "b")], id="two"),
]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize(("first", "second", "pairs"), SCORED)
async def test_pairs_are_scored_in_their_order(
    model: Path, path: str, first: Any, second: Any, pairs: list[tuple[str, str]]
) -> None:
    async with embed_server(model, facts=CROSS) as cross, embed_server(model) as embedder:
        _, judged = await post(cross.http, path, {"text_1": first, "text_2": second})
        _, compared = await post(embedder.http, path, {"text_1": first, "text_2": second})
        assert cross.embedder.asked[0].inputs == tuple(Pair(*pair) for pair in pairs)
    assert [one["index"] for one in judged["data"]] == list(range(len(pairs)))
    expected = [cosine(*pair) for pair in pairs]
    assert [one["score"] for one in compared["data"]] == pytest.approx(expected, abs=1e-6)


async def test_what_is_wanted_beside_the_texts_reaches_the_model(model: Path) -> None:
    long = {"query": "q" * 20, "documents": ["d" * 20], "truncate_prompt_tokens": -1}
    async with embed_server(model, facts=CROSS) as server:
        assert (await post(server.http, "/v1/rerank", long | {"service_tier": "flex", "timeout": 2.5}))[0] == 200
        [ask] = server.embedder.asked
    assert (ask.truncate, ask.priority, ask.timeout) == (True, Priority.BATCH, 2.5)


ONE = {"query": "q", "documents": ["d"]}
REFUSED: list[Any] = [
    pytest.param(CROSS, {"documents": ["d"]}, "query", "Field required", id="no query"),
    pytest.param(CROSS, ONE | {"query": ""}, "query", "at least 1", id="an empty query"),
    pytest.param(CROSS, ONE | {"documents": []}, "documents", "at least 1", id="no document"),
    pytest.param(CROSS, ONE | {"documents": ["d"] * 2048}, "documents", "at most 2047", id="too many"),
    pytest.param(CROSS, ONE | {"documents": ["d", {"text": ""}]}, "documents", "number 1 is empty", id="an empty one"),
    pytest.param(CROSS, ONE | {"documents": "d"}, "documents", "valid list", id="no list"),
    pytest.param(CROSS, ONE | {"top_n": 0}, "top_n", "greater than or equal to 1", id="none of the best"),
    pytest.param(CROSS, ONE | {"max_tokens_per_doc": 5}, "max_tokens_per_doc", "not a known field", id="Cohere's cut"),
    pytest.param(
        CROSS,
        {"query": "q" * 20, "documents": ["d", "d" * 20]},
        "documents",
        "number 1 together with `query` has more than 32 tokens",
        id="too long a pair",
    ),
    pytest.param(FACTS, ONE | {"documents": ["d", "d" * 40]}, "documents", "number 1 has more than", id="too long"),
    pytest.param(FACTS, ONE | {"query": "q" * 40}, "query", "query: has more than", id="too long a query"),
]


@pytest.mark.parametrize(("facts", "body", "field", "says"), REFUSED)
async def test_what_cannot_be_ranked_is_refused_with_its_field(
    model: Path, facts: Any, body: dict[str, Any], field: str, says: str
) -> None:
    async with embed_server(model, facts=facts) as server:
        status, answer = await post(server.http, "/v1/rerank", body)
    assert (status, answer["error"]["param"].split(".")[0]) == (400, field)
    assert says in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        pytest.param(
            {"text_1": ["a", "b"], "text_2": ["c"] * 3}, "body", "text_1 holds 2 texts and text_2 3", id="odd"
        ),
        pytest.param({"text_1": "a", "text_2": []}, "text_2", "holds 0 texts", id="none"),
        pytest.param({"text_1": ["a", ""], "text_2": "b"}, "text_1", "number 1 is empty", id="empty"),
        pytest.param({"text_1": "a", "text_2": "b" * 40}, "text_2", "together with `text_1` has more", id="too long"),
    ],
)
async def test_what_cannot_be_scored_is_refused_with_its_field(
    model: Path, body: dict[str, Any], field: str, says: str
) -> None:
    async with embed_server(model, facts=CROSS) as server:
        status, answer = await post(server.http, "/v1/score", body)
    assert (status, answer["error"]["param"]) == (400, field)
    assert says in answer["error"]["message"]


async def test_a_model_that_generates_says_what_ranks(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        for path, body in (("/v1/rerank", ONE), ("/v1/score", {"text_1": "a", "text_2": "b"})):
            status, answer = await post(server.http, path, body)
            assert (status, answer["error"]["param"]) == (400, "model")
            assert "serve one with --task=rerank" in answer["error"]["message"]
        assert (await post(server.http, "/v1/rerank", ONE | {"model": "other"}))[0] == 404


async def test_a_cross_encoder_neither_embeds_nor_generates(model: Path) -> None:
    async with embed_server(model, facts=CROSS) as server, aiohttp.ClientSession(server.http) as session:
        status, answer = await post(server.http, "/v1/embeddings", {"input": "a"})
        assert (status, answer["error"]["param"]) == (400, "model")
        assert "ranks and does not embed" in answer["error"]["message"]
        _, answer = await post(server.http, "/v1/completions", {"prompt": "a"})
        assert "ranks and does not generate" in answer["error"]["message"]
        async with session.get(f"/v2/models/{NAME}") as described:
            assert (await described.json())["platform"] == "headrace_reranker"


async def test_before_the_model_is_warm_the_answer_is_unavailable(model: Path) -> None:
    async with embed_server(model, ready=False) as server:
        assert (await post(server.http, "/v1/rerank", ONE))[0] == 503
        assert (await post(server.http, "/tokenize", {"prompt": "a"}))[0] == 503


def a_stub(server: EmbedServer, channels: list[grpc.aio.Channel]) -> inference_pb2_grpc.InferenceStub:
    channels.append(grpc.aio.insecure_channel(server.grpc))
    return inference_pb2_grpc.InferenceStub(channels[-1])


async def test_grpc_ranks_as_http_does_and_says_how(model: Path) -> None:
    channels: list[grpc.aio.Channel] = []
    async with embed_server(model, facts=CROSS) as cross, embed_server(model) as embedder:
        judge, compare = a_stub(cross, channels), a_stub(embedder, channels)
        reply = await judge.Rerank(pb.RerankRequest(query=QUERY, documents=DOCUMENTS, top_n=3), timeout=120)
        raw = await judge.Rerank(pb.RerankRequest(query=QUERY, documents=["a b c"], raw_scores=True), timeout=120)
        near = await compare.Rerank(pb.RerankRequest(query=QUERY, documents=["x"]), timeout=120)
        info = await judge.ModelInfo(pb.ModelInfoRequest(), timeout=120)
        others = await compare.ModelInfo(pb.ModelInfoRequest(), timeout=120)
        for channel in channels:
            await channel.close()
    assert [one.index for one in reply.results] == BEST[:3]
    assert [one.score for one in reply.results] == pytest.approx([sigmoid(1), sigmoid(0), sigmoid(-1)])
    assert reply.computed_tokens == sum(len(QUERY) + len(document) for document in DOCUMENTS)
    assert raw.results[0].score == 1
    assert near.results[0].score == pytest.approx(cosine(QUERY, "x"), abs=1e-6)
    assert (info.task, info.ranking, info.max_context) == (pb.TASK_RERANK, pb.RANKING_CROSS_ENCODER, CROSS.max_tokens)
    assert (info.dimensions, info.pooling) == (0, pb.POOLING_UNSPECIFIED)
    assert (others.task, others.ranking) == (pb.TASK_EMBED, pb.RANKING_BI_ENCODER)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(pb.RerankRequest(documents=["d"]), "query", id="no query"),
        pytest.param(pb.RerankRequest(query="q"), "documents", id="no documents"),
        pytest.param(pb.RerankRequest(query="q", documents=["d", ""]), "documents", id="an empty one"),
        pytest.param(pb.RerankRequest(query="q", documents=["d"], top_n=0), "top_n", id="none of the best"),
        pytest.param(pb.RerankRequest(query="q", documents=["d"], priority=9), "priority", id="no such class"),
        pytest.param(pb.RerankRequest(query="q", documents=["d" * 40]), "documents", id="too long"),
    ],
)
async def test_grpc_refuses_with_the_field(model: Path, request_: pb.RerankRequest, field: str) -> None:
    channels: list[grpc.aio.Channel] = []
    async with embed_server(model, facts=CROSS) as server:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await a_stub(server, channels).Rerank(request_, timeout=120)
        await channels[0].close()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailers: dict[str, Any] = dict(refused.value.trailing_metadata() or ())
    assert trailers["headrace-field"] == field


class Extreme(FixedEmbedder):
    def _vector(self, one: Input, ask: EmbedAsk) -> Any:
        return np.array([{"low": -1e30, "middle": 0.0, "high": 1e30}[one.second]], np.float32)  # type: ignore[union-attr]


@pytest.mark.filterwarnings("error")
async def test_scores_are_finite_at_the_ends() -> None:
    texts = ("low", "middle", "high")
    found = await judged(Extreme(CROSS), Match(Side("query", ("q",)), Side("documents", texts)))
    assert found.scores.tolist() == [pytest.approx(0.0), 0.5, 1.0]
