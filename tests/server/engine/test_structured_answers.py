"""Structured answers wait for their own tokens; nobody else does."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engines import a_request, a_running_engine, answer_of
from headrace_server.config import EngineConfig
from headrace_server.engine.grammar import Guide
from headrace_server.engine.loop import Engine
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.errors import InvalidRequest
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Grammar, Request, Sampling, Token
from headrace_server.rpc.grammars import load_grammars
from headrace_server.rpc.structured import Format, Kind
from models import Model, a_model
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
TOKENIZER = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 969}, "maxItems": 3},
    },
    "required": ["name", "ages"],
    "additionalProperties": False,
}


class Countdown:
    """Allows token 7 so many times; `breaks_at` is the token at which it cannot go on."""

    def __init__(self, length: int, breaks_at: int | None = None) -> None:
        self.left = length
        self._breaks_at = breaks_at

    @property
    def finished(self) -> bool:
        return self.left == 0

    def accept(self, token_id: int) -> None:
        assert token_id == 7
        self.left -= 1
        if self.left == self._breaks_at:
            raise InvalidRequest("response_format", "leads nowhere")

    def fill(self, row: NDArray[np.int32]) -> None:
        row[:] = 0
        row[0] = 1 << 7


def a_guided(grammar: Grammar, prompt: int = 2, max_new_tokens: int = 9) -> Sequence:
    return Sequence(a_request(prompt=prompt, max_new_tokens=max_new_tokens), Guide(grammar, vocab_size=1000))


def a_scheduler(max_tokens: int = 100) -> Scheduler:
    return Scheduler(EngineConfig(max_running=8, max_tokens_per_step=max_tokens, page_size=4), kv_pages=100)


def slots(step: Step | None) -> list[int]:
    return [] if step is None else [chunk.slot for chunk in step.chunks]


def delivered(scheduler: Scheduler, step: Step) -> list[tuple[Sequence, Token]]:
    return list(scheduler.commit(step, [7] * step.samples).tokens)


def test_planned_ahead_it_is_in_every_other_step_and_the_others_are_in_each() -> None:
    scheduler = a_scheduler()
    scheduler.enter(a_guided(Countdown(3)))
    scheduler.add(a_request(prompt=2, max_new_tokens=9))
    steps = [scheduler.next_step(0.0), scheduler.next_step(0.0)]
    for number in range(4):
        done = steps[number]
        assert done is not None
        delivered(scheduler, done)
        steps.append(scheduler.next_step(0.0))
    assert [slots(step) for step in steps] == [[0, 1], [1], [0, 1], [1], [0, 1], [1]]


def test_alone_it_leaves_nothing_to_plan_ahead() -> None:
    scheduler = a_scheduler()
    scheduler.enter(a_guided(Countdown(2)))
    first = scheduler.next_step(0.0)
    assert first is not None
    assert scheduler.next_step(0.0) is None
    delivered(scheduler, first)
    assert slots(scheduler.next_step(0.0)) == [0]


def test_the_pieces_of_its_prompt_wait_for_nothing_and_only_the_last_one_has_a_mask() -> None:
    scheduler = a_scheduler(max_tokens=4)
    scheduler.enter(a_guided(Countdown(2), prompt=10))
    steps = [scheduler.next_step(0.0) for _ in range(4)]
    masks = [None if step is None else step.chunks[0].mask is not None for step in steps]
    assert masks == [False, False, True, None]


def test_it_ends_with_the_token_after_which_nothing_can_follow() -> None:
    scheduler = a_scheduler()
    sequence = scheduler.enter(a_guided(Countdown(2)))
    tokens = []
    while step := scheduler.next_step(0.0):
        tokens += [token for _, token in delivered(scheduler, step)]
    assert tokens == [Token(7), Token(7, Finish.STOP)]
    assert sequence.released


def test_a_grammar_that_breaks_ends_its_own_answer() -> None:
    scheduler = a_scheduler()
    broken = scheduler.enter(a_guided(Countdown(5, breaks_at=3)))
    other = scheduler.add(a_request(prompt=2, max_new_tokens=4))
    while step := scheduler.next_step(0.0):
        delivered(scheduler, step)
    assert broken.finish is Finish.FAILED
    assert isinstance(broken.fault, InvalidRequest)
    assert other.finish is Finish.LENGTH


async def test_the_caller_hears_what_broke_and_the_engine_goes_on() -> None:
    async with a_running_engine() as running:
        request = replace(a_request(prompt=(7, 7, 7, 7, 7, 7, 7), max_new_tokens=4), grammar=Countdown(5, breaks_at=4))
        with pytest.raises(InvalidRequest, match="response_format: leads nowhere"):
            await answer_of(running.engine, request)
        assert len(await answer_of(running.engine, a_request(max_new_tokens=3))) == 3
        assert running.metric("requests_finished_total", outcome="failed") == 1


@pytest.fixture(scope="module")
def model() -> Model:
    return a_model(SHIPPED, max_running=8, kv_cache_bytes=2**22)


async def answers(model: Model, overlap: bool) -> list[str]:
    """Of six requests at once: structured ones among others, greedy and sampled ones."""
    grammars = load_grammars(SHIPPED, model.loaded.limits)
    wanted = [
        Format(Kind.JSON_SCHEMA, json.dumps(SCHEMA), "the schema"),
        None,
        Format(Kind.REGEX, "[0-9]{4}-[0-9]{2}", "the regex"),
    ]
    prompt = tuple(TOKENIZER.encode("And the LORD spake unto Moses, saying, ").ids)
    requests = [
        Request(
            id=f"{number} {temperature}",
            prompt=prompt,
            max_new_tokens=200 if format_ else 40,
            arrived_at=0.0,
            sampling=Sampling(temperature=temperature, seed=number),
            stop_token_ids=frozenset(model.loaded.limits.eos_token_ids),
            grammar=None if format_ is None else await grammars.grammar(format_),
        )
        for number, format_ in enumerate(wanted)
        for temperature in (0.0, 1.0)
    ]
    engine = Engine(
        model.loaded.runner,
        replace(model.config.engine, overlap=overlap),
        model.loaded.limits,
        ServerMetrics(CollectorRegistry()),
    )
    heartbeat = asyncio.create_task(engine.run())
    told = await asyncio.gather(*(answer_of(engine, request) for request in requests))
    heartbeat.cancel()
    await asyncio.gather(heartbeat, return_exceptions=True)
    return [TOKENIZER.decode([token.id for token in tokens if token.id is not None]) for tokens in told]


async def test_the_engine_answers_in_the_format_with_and_without_overlap_alike(model: Model) -> None:
    overlapped = await answers(model, overlap=True)
    assert overlapped == await answers(model, overlap=False)
    for text in overlapped[:2]:
        document = json.loads(text)
        assert set(document) == {"name", "ages"}
        assert len(document["name"]) <= 20
    for text in overlapped[4:]:
        assert text[:4].isdigit()
        assert text[4] == "-"
