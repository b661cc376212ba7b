"""What callers hear of whole answers, with every number in it, to be compared to the bit."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from engines import answer_of
from headrace_server.engine.loop import Engine
from headrace_server.request import Finish, Logprob, Logprobs, Request

Scores = tuple[Logprob, tuple[Logprob, ...]]  # of the chosen token, and of as many of the likeliest as were asked for


@dataclass(frozen=True, slots=True)
class Heard:
    token_ids: tuple[int | None, ...]
    scores: tuple[Scores, ...]  # of each of them; none where nobody asked
    prompt_scores: tuple[Scores, ...]
    finish: Finish | None


async def one_by_one(engine: Engine, requests: Iterable[Request]) -> dict[str, Heard]:
    return {request.id: await heard(engine, request) for request in requests}


async def at_once(engine: Engine, requests: Iterable[Request]) -> dict[str, Heard]:
    asked = list(requests)
    found = await asyncio.gather(*(heard(engine, request) for request in asked))
    return dict(zip((request.id for request in asked), found, strict=True))


async def heard(engine: Engine, request: Request) -> Heard:
    tokens = await answer_of(engine, request)
    return Heard(
        tuple(token.id for token in tokens),
        _scores([token.logprobs for token in tokens if token.logprobs is not None], request.sampling.logprobs),
        _scores(tokens[0].prompt_logprobs, request.prompt_logprobs),
        tokens[-1].finish,
    )


def _scores(found: Iterable[Logprobs], wanted: int | None) -> tuple[Scores, ...]:
    """As the doors tell them: neighbours may have asked for more."""
    return () if wanted is None else tuple((one.chosen, one.top[:wanted]) for one in found)
