"""The operator asks a real server how likely it thinks an answer; a server that does not answer holds nobody up."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from headrace_operator.decide.evidence import Score, key
from headrace_operator.decide.questions import Door, Questions
from headrace_operator.observe.golden import RETRY, GoldenProbe, mean_logprob
from headrace_operator.service import GoldenPrompt
from headrace_server.rpc.api_keys import line, new_key
from served_process import HEADRACE, NAME, environment, serve_command, served

MODELS = Path(__file__).parents[2] / "examples" / "models"
LIGHT = GoldenPrompt("And God said, Let there be light:", " and there was light.")
MEEK = GoldenPrompt("Blessed are the meek:", " for they shall inherit the earth.")
ABOUT = ("default", "chat")
PATIENCE = 300  # seconds


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def probe(clock: Clock) -> AsyncIterator[GoldenProbe]:
    async with aiohttp.ClientSession() as session:
        made = GoldenProbe(session, clock, timeout=PATIENCE)
        yield made
        await made.close()


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """A door that takes every request and never answers."""
    over = asyncio.Event()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}"
    over.set()
    server.close()


async def answered(probe: GoldenProbe, questions: Questions) -> tuple[Score, ...]:
    async with asyncio.timeout(PATIENCE):
        while len(scores := probe.scores(ABOUT, questions)) < len(questions.prompts):
            await asyncio.sleep(0.05)
    return scores


def as_evaluated(golden: GoldenPrompt, folder: Path) -> float:
    """The same loss, in nats a token, by `headrace evaluate`: what a canary would say, before it is rolled out."""
    lines, result = folder / "golden.jsonl", folder / "result.json"
    lines.write_text(json.dumps({"prompt": golden.prompt, "answer": golden.answer}))
    models = [f"--model={MODELS / 'scripture-1m'}", f"--against={MODELS / 'scripture-5m'}"]
    subprocess.run(
        [str(HEADRACE), "evaluate", *models, f"--golden={lines}", f"--json={result}"], env=environment(), check=False
    )
    return float(json.loads(result.read_text())["quality"]["nats_lost"])


async def test_a_smaller_model_thinks_these_words_less_likely(probe: GoldenProbe, tmp_path: Path) -> None:
    # As a deployment with keys has it: a tenant's port refuses, the operator's own asks nothing of a tenant.
    keys = tmp_path / "keys"
    keys.write_text(line("team-a", new_key()))
    flags = (f"--api-keys={keys}", "--admin-port=0")
    small, large = (serve_command(MODELS / f"scripture-{size}", *flags) for size in ("1m", "5m"))
    folders = [tmp_path / "small", tmp_path / "large"]
    for folder in folders:
        folder.mkdir()
    async with (
        served(large, folders[1], POD_UID="stable-uid") as stable,
        served(small, folders[0], POD_UID="canary-uid") as canary,
    ):
        old, new = Door(f"http://{stable.admin}", "stable-uid"), Door(f"http://{canary.admin}", "canary-uid")
        asked = Questions("t", NAME, old, new, (LIGHT, MEEK))
        scores = await answered(probe, asked)
        same = Questions("u", NAME, old, old, (LIGHT,))
        (equal,) = await answered(probe, same)
    assert scores[0].loss == pytest.approx(as_evaluated(LIGHT, tmp_path), abs=1e-3)
    assert [score.key for score in scores] == [key(LIGHT), key(MEEK)]
    assert sum(score.loss for score in scores) / 2 > 0.05
    assert all(score.stable < 0 for score in scores)
    assert abs(equal.loss) < 1e-3
    assert equal.stable == pytest.approx(scores[0].stable, abs=1e-3)


async def test_a_pod_that_never_answers_holds_nobody_up(probe: GoldenProbe, silent: str) -> None:
    asked = Questions("t", NAME, Door(silent, "u"), Door(silent, "u"), (LIGHT,))
    for _ in range(5):
        assert probe.scores(ABOUT, asked) == ()  # returns at once; nothing here waits
        await asyncio.sleep(0)


async def test_an_ask_that_fails_is_repeated_and_not_at_once(clock: Clock) -> None:
    asks = 0

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asks
        asks += 1
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        host, port = server.sockets[0].getsockname()
        probe = GoldenProbe(session, clock, timeout=PATIENCE)
        asked = Questions("t", NAME, Door(f"http://{host}:{port}", "u"), Door(f"http://{host}:{port}", "u"), (LIGHT,))

        async def look() -> int:
            assert probe.scores(ABOUT, asked) == ()
            async with asyncio.timeout(PATIENCE):
                while asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.sleep(0.01)
            return asks

        first = await look()
        assert first > 0
        clock.now += RETRY - 1
        assert await look() == first
        clock.now += 2
        assert await look() > first
        await probe.close()


def completion(*tokens: tuple[int, float | None]) -> dict[str, object]:
    found = {"text_offset": [at for at, _ in tokens], "token_logprobs": [logprob for _, logprob in tokens]}
    return {"choices": [{"logprobs": found}]}


def test_only_the_answers_tokens_count() -> None:
    text = completion((0, None), (3, -9.0), (6, -1.0), (8, -2.0))
    assert mean_logprob(text, 6) == -1.5
    assert mean_logprob(text, 5) == -1.5  # the token from 3 on is partly the prompt's


@pytest.mark.parametrize(
    "text",
    [
        pytest.param({}, id="no completion"),
        pytest.param({"choices": [{"logprobs": None}]}, id="no logprobs"),
        pytest.param(completion((0, None), (3, -9.0)), id="the answer has no token of its own"),
        pytest.param(json.loads('{"choices": []}'), id="no choice"),
    ],
)
def test_what_is_no_score_is_said_to_be_none(text: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"completion|scored"):
        mean_logprob(text, 6)
