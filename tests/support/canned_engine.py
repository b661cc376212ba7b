"""An engine without steps: it keeps what it is asked, and answers with tokens and logprobs that the test knows."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace_server.engine.limits import Limits
from headrace_server.engine.stream import Stream
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Logprob, Logprobs, Request, Token
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.doors import open_doors
from headrace_server.rpc.text import load_text
from open_server import CONTEXT, PAGES, AtDoors, a_config
from prometheus_client import CollectorRegistry

EOS = (1,)
VOCAB = 320


class CannedEngine:
    """Answers every request with the same ids, as many of them as it wants; a stop string ends it as in the engine."""

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = tuple(answer)
        self.asked: list[Request] = []

    def submit(self, request: Request) -> Stream:
        self.asked.append(request)
        stream = Stream(lambda _: None)
        prompt = () if request.prompt_logprobs is None else tuple(map(logprobs, request.prompt[1:]))
        if request.max_new_tokens == 0:
            stream.put(Token(None, Finish.LENGTH, prompt_logprobs=prompt))
        for place, token_id in enumerate(self._answer[: request.max_new_tokens]):
            stopped = request.stops is not None and request.stops.feed(token_id)
            length = Finish.LENGTH if place + 1 == min(len(self._answer), request.max_new_tokens) else None
            finish = Finish.STOP if stopped else length
            scored = None if request.sampling.logprobs is None else logprobs(token_id)
            stream.put(Token(token_id, finish, 0.0, scored, prompt if place == 0 else ()))
            if finish:
                break
        return stream


def logprob(token_id: int) -> float:
    return -(1 + token_id % 16) / 16  # exact in binary


def logprobs(token_id: int) -> Logprobs:
    """The three likeliest are the same everywhere; engines may deliver more of them than one caller wants."""
    return Logprobs(
        Logprob(token_id, logprob(token_id)), tuple(Logprob(other, logprob(other)) for other in (256, 257, 258))
    )


@dataclass(frozen=True, slots=True)
class CannedServer(AtDoors):
    engine: CannedEngine


@asynccontextmanager
async def canned_server(model: Path, answer: Sequence[int]) -> AsyncIterator[CannedServer]:
    """`model` needs only the tokenizer's files."""
    registry = CollectorRegistry()
    doors = await open_doors(a_config(model, max_connection_age=30.0), ServerMetrics(registry), registry)
    limits = Limits(max_context=CONTEXT, vocab_size=VOCAB, eos_token_ids=EOS, kv_pages=PAGES)
    engine = CannedEngine(answer)
    await doors.serve(Answers(engine, load_text(model), limits, time.monotonic))
    try:
        yield CannedServer(doors, engine)
    finally:
        await doors.close()
