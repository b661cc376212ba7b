"""How an answer is passed on: online at once, offline in tokens enough to be worth it. Nothing is lost or kept back."""

from contextlib import aclosing
from dataclasses import replace

import pytest
from engines import a_request, a_running_engine
from headrace_server.engine.loop import OFFLINE_TOKENS
from headrace_server.engine.stream import Stream
from headrace_server.errors import EngineFailed
from headrace_server.request import Finish, Priority, Token


def arrived(stream: Stream) -> list[int]:
    found = []
    while (token := stream.arrived()) is not None:
        found.append(token.id)
    return [one for one in found if one is not None]


def passed_on(numbers: range, at_once: int) -> tuple[Stream, list[list[int]]]:
    """Which tokens are there to be read after each that the engine puts."""
    stream, seen = Stream(lambda finish: None, at_once), []
    for number in numbers:
        stream.put(Token(number, Finish.LENGTH if number == numbers[-1] else None))
        seen.append(arrived(stream))
    return stream, seen


def test_an_online_answer_is_passed_on_token_by_token() -> None:
    _, seen = passed_on(range(1, 6), at_once=1)
    assert seen == [[1], [2], [3], [4], [5]]


def test_an_offline_answer_is_passed_on_in_handfuls_and_the_rest_with_its_end() -> None:
    _, seen = passed_on(range(1, 8), at_once=3)
    assert seen == [[], [], [1, 2, 3], [], [], [4, 5, 6], [7]]


def test_what_was_held_back_comes_before_the_fault_that_ends_it() -> None:
    stream = Stream(lambda finish: None, 3)
    for news in (Token(1, None), Token(2, None), EngineFailed("broken")):
        stream.put(news)
    assert [stream.arrived(), stream.arrived()] == [Token(1, None), Token(2, None)]
    with pytest.raises(EngineFailed):
        stream.arrived()


async def test_the_first_tokens_of_an_offline_answer_come_together() -> None:
    async with a_running_engine() as running:
        request = replace(a_request(prompt=5, max_new_tokens=2 * OFFLINE_TOKENS), priority=Priority.BATCH)
        async with aclosing(running.engine.submit(request)) as stream:
            found = [(await anext(stream)).id, *arrived(stream)]
            assert len(found) >= OFFLINE_TOKENS
            found += [token.id async for token in stream]
    assert found == list(range(5, 5 + 2 * OFFLINE_TOKENS))
