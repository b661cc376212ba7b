"""Whatever a gRPC client sends, the answer is a reply or a refusal that names a fault: never INTERNAL, never UNKNOWN,
never silence, and the server goes on."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from embed_server import embed_server
from google.protobuf.message import DecodeError
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import oip_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_server import NAME, PAGES, OpenServer, open_server
from scripted_runner import ScriptedRunner

FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
CODES = {code.value[0] for code in FAULTS}

texts = st.text(max_size=12)
doubles = st.floats(width=64) | st.sampled_from([0.0, 0.5, 1.0])
int32s = st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 40)
uint32s = st.integers(0, 2**32 - 1) | st.integers(0, 330)
ids = st.lists(uint32s, max_size=70).map(lambda given: pb.TokenIds(ids=given))
chats = st.lists(st.builds(pb.ChatMessage, role=st.sampled_from(["user", "developer", ""]), content=texts), max_size=3)
priorities = st.sampled_from([0, 1, 2, 3, 4, -1, 2**31 - 1])
# The scripted runner has no logits to make allowed ones of; tests/server/rpc/test_logprobs.py asks for those.
no_logprobs = int32s.filter(lambda top: not 0 <= top <= 20)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


generates = some(
    text=texts,
    tokens=ids,
    chat=chats.map(lambda messages: pb.Chat(messages=messages)),
    max_new_tokens=int32s,
    temperature=doubles,
    top_k=int32s,
    top_p=doubles,
    seed=st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(texts, max_size=20),
    ignore_eos=st.booleans(),
    min_p=doubles,
    repetition_penalty=doubles,
    presence_penalty=doubles,
    frequency_penalty=doubles,
    logit_bias=st.dictionaries(uint32s, doubles, max_size=5),
    min_tokens=int32s,
    stop_token_ids=st.lists(uint32s, max_size=5),
    logprobs=no_logprobs,
    prompt_logprobs=no_logprobs,
    json_schema=texts,
    regex=texts,
    json_object=st.booleans(),
    priority=priorities,
).map(lambda fields: pb.GenerateRequest(**fields))
nearly = some(
    seed=st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(texts, max_size=2),
    priority=priorities,
    min_tokens=st.integers(-1, 9),
    temperature=st.floats(0, 2),
    logit_bias=st.dictionaries(uint32s, doubles, max_size=2),
)
# Most random fields are refused at the first fault; a well-formed request with a few of them reaches further.
nearly_right = st.builds(
    lambda length, fields: pb.GenerateRequest(text="In", max_new_tokens=length, **fields), st.integers(1, 8), nearly
)
inputs = texts.map(lambda text: pb.EmbedInput(text=text)) | ids.map(lambda found: pb.EmbedInput(tokens=found))
embeds = st.builds(
    pb.EmbedRequest,
    inputs=st.lists(inputs, max_size=4),
    dimensions=st.none() | int32s,
    truncate=st.booleans(),
    priority=priorities,
)
reranks = st.builds(
    pb.RerankRequest,
    query=texts,
    documents=st.lists(texts, max_size=4),
    top_n=st.none() | int32s,
    raw_scores=st.booleans(),
    truncate=st.booleans(),
    priority=priorities,
)
parameters = st.builds(oip_pb2.InferParameter) | st.one_of(
    st.builds(oip_pb2.InferParameter, bool_param=st.booleans()),
    st.builds(oip_pb2.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
    st.builds(oip_pb2.InferParameter, string_param=texts),
    st.builds(oip_pb2.InferParameter, double_param=doubles),
)
contents = st.builds(oip_pb2.InferTensorContents, bytes_contents=st.lists(st.binary(max_size=8), max_size=3))
tensors = st.builds(
    oip_pb2.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["text", "", "x"]),
    datatype=st.sampled_from(["BYTES", "FP32", ""]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=3),
    contents=st.none() | contents,
)
infers = st.builds(
    oip_pb2.ModelInferRequest,
    model_name=st.just(NAME) | texts,
    inputs=st.lists(tensors, max_size=2),
    parameters=st.dictionaries(st.sampled_from(["dimensions", "truncate", "priority", "x"]), parameters, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=20), max_size=2),
)
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Fuzzed:
    """A generator and an embedder, each behind its real door, for all examples of a test."""

    def __init__(self, model: Path, runner: ScriptedRunner) -> None:
        self._loop = asyncio.Runner()
        self._opened = AsyncExitStack()
        self._model, self._script = model, runner

    def open(self) -> None:
        async def enter() -> None:
            self.generator: OpenServer = await self._opened.enter_async_context(open_server(self._model, self._script))
            self._embedder = await self._opened.enter_async_context(embed_server(self._model))
            self._channels = {
                True: await self._opened.enter_async_context(grpc.aio.insecure_channel(self._embedder.grpc)),
                False: await self._opened.enter_async_context(grpc.aio.insecure_channel(self.generator.grpc)),
            }

        self._loop.run(enter())

    def close(self) -> None:
        self._loop.run(self._opened.aclose())
        self._loop.close()

    def ask(
        self, method: str, raw: bytes, *, embeds: bool = False, metadata: Sequence[tuple[str, str]] = ()
    ) -> tuple[grpc.StatusCode, list[bytes]]:
        async def call() -> tuple[grpc.StatusCode, list[bytes]]:
            asked = self._channels[embeds].unary_stream(method)(raw, timeout=120, metadata=tuple(metadata))
            try:
                return grpc.StatusCode.OK, [reply async for reply in asked]
            except grpc.aio.AioRpcError as error:
                return error.code(), [error.details().encode()]

        return self._loop.run(call())

    def stream(self, raws: list[bytes]) -> tuple[grpc.StatusCode, list[bytes]]:
        async def call() -> tuple[grpc.StatusCode, list[bytes]]:
            asked = self._channels[True].stream_stream("/headrace.v1.Inference/EmbedStream")(iter(raws), timeout=120)
            replies: list[bytes] = []
            try:
                async for reply in asked:
                    replies.append(reply)
            except grpc.aio.AioRpcError as error:
                return error.code(), replies
            return grpc.StatusCode.OK, replies

        return self._loop.run(call())

    def check(self) -> None:
        """All is free, and the next request is answered."""
        code, _ = self.ask("/headrace.v1.Inference/Generate", pb.GenerateRequest(text="In").SerializeToString())
        assert code is grpc.StatusCode.OK

        async def settled() -> None:
            await self.generator.until_inside(0)
            assert self.generator.engine.load().kv_pages_free == PAGES

        self._loop.run(settled())


@pytest.fixture
def fuzzed(model: Path, runner: ScriptedRunner) -> Iterator[Fuzzed]:
    both = Fuzzed(model, runner)
    both.open()
    yield both
    both.check()
    both.close()


@FUZZ
@given(message=generates | nearly_right)
def test_any_generate_request_is_answered_or_refused(fuzzed: Fuzzed, message: pb.GenerateRequest) -> None:
    code, replies = fuzzed.ask("/headrace.v1.Inference/Generate", message.SerializeToString())
    assert code in FAULTS | {grpc.StatusCode.OK}, replies
    if code is grpc.StatusCode.OK:
        assert pb.GenerateReply.FromString(replies[-1]).HasField("usage")


@FUZZ
@given(messages=st.lists(generates | nearly_right, min_size=1, max_size=4))
def test_any_batch_has_an_outcome_for_each_request(fuzzed: Fuzzed, messages: list[pb.GenerateRequest]) -> None:
    raw = pb.GenerateBatchRequest(requests=messages).SerializeToString()
    code, [reply] = fuzzed.ask("/headrace.v1.Inference/GenerateBatch", raw)
    assert code is grpc.StatusCode.OK, reply
    outcomes = pb.GenerateBatchReply.FromString(reply).outcomes
    assert len(outcomes) == len(messages)
    assert {outcome.refused.code for outcome in outcomes if outcome.HasField("refused")} <= CODES


@FUZZ
@given(message=embeds)
def test_any_embed_request_is_answered_or_refused(fuzzed: Fuzzed, message: pb.EmbedRequest) -> None:
    code, replies = fuzzed.ask("/headrace.v1.Inference/Embed", message.SerializeToString(), embeds=True)
    assert code in FAULTS | {grpc.StatusCode.OK}, replies


@FUZZ
@given(message=reranks)
def test_any_rerank_request_is_answered_or_refused(fuzzed: Fuzzed, message: pb.RerankRequest) -> None:
    code, replies = fuzzed.ask("/headrace.v1.Inference/Rerank", message.SerializeToString(), embeds=True)
    assert code in FAULTS | {grpc.StatusCode.OK}, replies


@FUZZ
@given(message=infers)
def test_any_infer_request_is_answered_or_refused(fuzzed: Fuzzed, message: oip_pb2.ModelInferRequest) -> None:
    method = "/inference.GRPCInferenceService/ModelInfer"
    code, replies = fuzzed.ask(method, message.SerializeToString(), embeds=True)
    assert code in FAULTS | {grpc.StatusCode.OK}, replies


METHODS = {
    "/headrace.v1.Inference/Generate": pb.GenerateRequest,
    "/headrace.v1.Inference/GenerateBatch": pb.GenerateBatchRequest,
    "/headrace.v1.Inference/Rerank": pb.RerankRequest,
    "/headrace.v1.Inference/Tokenize": pb.TokenizeRequest,
    "/headrace.v1.Inference/Detokenize": pb.DetokenizeRequest,
    "/inference.GRPCInferenceService/ModelInfer": oip_pb2.ModelInferRequest,
}


@FUZZ
@given(method=st.sampled_from(sorted(METHODS)), raw=st.binary(max_size=40))
def test_bytes_that_are_no_message_are_the_callers_fault(fuzzed: Fuzzed, method: str, raw: bytes) -> None:
    code, replies = fuzzed.ask(method, raw)
    try:
        METHODS[method].FromString(raw)
    except DecodeError:
        assert (code, replies[0].split(b":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, b"message")
    else:
        assert code in FAULTS | {grpc.StatusCode.OK}, replies


@FUZZ
@given(messages=st.lists(embeds, max_size=5), broken=st.none() | st.just(b"\xff"))
def test_any_stream_of_embed_requests_is_answered_one_by_one(
    fuzzed: Fuzzed, messages: list[pb.EmbedRequest], broken: bytes | None
) -> None:
    """And a message that is none ends the stream, after what came before it."""
    asked = [pb.EmbedStreamRequest(id=str(place), request=each) for place, each in enumerate(messages)]
    raws = [each.SerializeToString() for each in asked] + ([] if broken is None else [broken])
    code, raw_replies = fuzzed.stream(raws)
    replies = [pb.EmbedStreamReply.FromString(raw) for raw in raw_replies]
    assert {reply.refused.code for reply in replies if reply.HasField("refused")} <= CODES
    assert [reply.id for reply in replies] == [each.id for each in asked]
    assert code is (grpc.StatusCode.OK if broken is None else grpc.StatusCode.INVALID_ARGUMENT)


READ_KEYS = ["x-headrace-tenant", "x-envoy-expected-rq-timeout-ms", "authorization", "traceparent", "tracestate",
             "x-envoy-attempt-count", "grpc-previous-rpc-attempts", "x-request-id"]  # fmt: skip
words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
values = words | st.integers(0, 10**20).map(str) | st.integers(1, 6000).map(lambda length: "9" * length)


@FUZZ
@given(metadata=st.lists(st.tuples(st.sampled_from(READ_KEYS), values), max_size=4))
def test_any_metadata_is_taken_or_refused(fuzzed: Fuzzed, metadata: list[tuple[str, str]]) -> None:
    raw = pb.GenerateRequest(text="In", max_new_tokens=2).SerializeToString()
    code, replies = fuzzed.ask("/headrace.v1.Inference/Generate", raw, metadata=metadata)
    assert code in FAULTS | {grpc.StatusCode.OK}, replies
