"""Between door and engine: what a caller who reads slowly gets."""

from pathlib import Path

from headrace_server.request import Finish, Sampling
from headrace_server.rpc.ask import Ask
from open_server import open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "


async def test_a_caller_who_lags_gets_all_that_came_meanwhile_in_one_piece(model: Path, runner: ScriptedRunner) -> None:
    ids = tiny_tokenizer().encode(ANSWER).ids
    ask = Ask("In", max_new_tokens=len(ids), default_new_tokens=None, sampling=Sampling())
    async with open_server(model, runner) as server, server.doors.readiness.answers().open(ask) as pieces:
        await server.until_inside(0)  # the engine has finished before the first look
        [piece] = [piece async for piece in pieces]
    assert (piece.text, piece.token_ids, piece.finish) == (ANSWER, tuple(ids), Finish.LENGTH)
    assert piece.usage is not None
    assert piece.usage.generated_tokens == len(ids)
