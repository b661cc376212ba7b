"""A token of a long answer costs its door what one at the beginning does: work counted, not timed."""

import gc
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from canned_engine import logprobs
from headrace_server.engine.limits import Limits
from headrace_server.engine.stream import Stream
from headrace_server.request import Request, Sampling, Token
from headrace_server.rpc.answers import Answers, Piece
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.text import load_text
from tiny_tokenizer import tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "
IDS = tiny_tokenizer().encode(ANSWER).ids
EARLY, LATE = 100, 5000  # tokens
LIMITS = Limits(max_context=8192, vocab_size=320, eos_token_ids=(1,), kv_pages=512)
ASKS = {
    "plain": Ask("In", 8000, None, Sampling()),
    "with stop strings": Ask("In", 8000, None, Sampling(), stop=("void.\n", "God created a")),
    "with logprobs": Ask("In", 8000, None, Sampling(logprobs=2)),
}


@dataclass
class HandFed:
    """An engine of one request, whose tokens the test brings, as the scheduler would: past the stop strings."""

    ids: Iterator[int] = field(default_factory=lambda: cycle(IDS))
    stream: Stream = field(default_factory=lambda: Stream(lambda _: None))
    request: Request | None = None

    def submit(self, request: Request) -> Stream:
        self.request = request
        return self.stream

    def bring(self) -> None:
        assert self.request is not None
        token_id = next(self.ids)
        assert self.request.stops is None or not self.request.stops.feed(token_id)
        scores = None if self.request.sampling.logprobs is None else logprobs(token_id)
        self.stream.put(Token(token_id, logprobs=scores))


@dataclass(frozen=True, slots=True)
class Work:
    calls: int  # of functions, Python's and C's
    most_bytes: int  # held at once beyond what was held before


async def told(engine: HandFed, pieces: AsyncIterator[Piece], tokens: int) -> None:
    for _ in range(tokens):
        engine.bring()
        await anext(pieces)


async def work(engine: HandFed, pieces: AsyncIterator[Piece]) -> Work:
    """Of one ANSWER: the same ids early and late."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    gc.disable()  # libraries are called when garbage is collected, and that is when it is due
    sys.setprofile(count)
    await told(engine, pieces, len(IDS))
    sys.setprofile(None)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await told(engine, pieces, len(IDS))
    most = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    gc.enable()
    return Work(calls, most)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
async def test_the_last_tokens_of_a_long_answer_take_the_work_of_the_first(model: Path, ask: Ask) -> None:
    engine = HandFed()
    async with Answers(engine, load_text(model), LIMITS, time.monotonic).open(ask) as pieces:
        await told(engine, pieces, EARLY // len(IDS) * len(IDS))
        early = await work(engine, pieces)
        await told(engine, pieces, LATE // len(IDS) * len(IDS))
        late = await work(engine, pieces)
    assert early.calls == late.calls > len(IDS)
    assert late.most_bytes <= early.most_bytes + 512, "nothing as long as the answer is built for a token"
