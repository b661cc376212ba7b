"""Asks both sides of a trial how likely they think a golden answer. A pod that hangs delays nobody: tasks of its own.

The prompt and the answer go to the admin port's completions, which ask for no tenant's key, as one text that is only
scored (`echo`, `logprobs`, no new tokens); the score is the mean log-probability of the answer's tokens. A score is
made once; an ask that fails is repeated after RETRY, because what is not known is neither good nor bad.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from headrace_operator.decide.evidence import Score, key
from headrace_operator.decide.questions import Door, Questions
from headrace_operator.service import GoldenPrompt
from headrace_operator.work_queue import Key

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds for one prompt on one pod, its wait in the queue included
RETRY = 10.0  # seconds after an ask that failed


@dataclass(slots=True)
class _Trial:
    name: str
    task: "asyncio.Task[None]"
    scores: list[Score] = field(default_factory=list)
    ended_at: float = 0.0  # epoch seconds of the last round


class GoldenProbe:
    def __init__(self, session: aiohttp.ClientSession, clock: Callable[[], float], timeout: float = TIMEOUT) -> None:
        """`clock` gives epoch seconds; `timeout` in seconds, for one prompt on one pod."""
        self._session = session
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._trials: dict[Key, _Trial] = {}

    def scores(self, about: Key, questions: Questions | None) -> tuple[Score, ...]:
        """What is known so far; returns at once. Starts asking for what is not known and not asked already."""
        known = self._trials.get(about)
        if questions is None or (known and known.name != questions.trial):
            self.forget(about)
            known = None
        if questions is None:
            return ()
        if known is None or (known.task.done() and self._clock() - known.ended_at >= RETRY):
            known = self._begin(about, questions, known.scores if known else [])
        return tuple(known.scores)

    def forget(self, about: Key) -> None:
        if trial := self._trials.pop(about, None):
            trial.task.cancel()

    async def close(self) -> None:
        tasks = [trial.task for trial in self._trials.values()]
        for about in list(self._trials):
            self.forget(about)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, about: Key, questions: Questions, scores: list[Score]) -> _Trial:
        task = asyncio.create_task(self._ask_all(about, questions, scores), name=f"golden {'/'.join(about)}")
        trial = self._trials[about] = _Trial(questions.trial, task, scores)
        return trial

    async def _ask_all(self, about: Key, questions: Questions, scores: list[Score]) -> None:
        for prompt in questions.prompts:
            if key(prompt) in {score.key for score in scores}:
                continue
            try:
                stable, canary = await asyncio.gather(
                    self._score(questions.stable, questions.model, prompt),
                    self._score(questions.canary, questions.model, prompt),
                )
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                logger.warning("golden prompt %s of %s: %s: %s", key(prompt), about, type(error).__name__, error)
            else:
                scores.append(Score(key(prompt), stable, canary))
        self._trials[about].ended_at = self._clock()

    async def _score(self, door: Door, model: str, golden: GoldenPrompt) -> float:
        """Raises ClientError or TimeoutError; ValueError for an answer that is no score."""
        body = {"model": model, "prompt": golden.prompt + golden.answer, "max_tokens": 0, "echo": True, "logprobs": 0}
        url, bearer = f"{door.url}/v1/completions", {"Authorization": f"Bearer {door.token}"}
        async with self._session.post(
            url, json=body, headers=bearer, timeout=self._timeout, raise_for_status=True
        ) as response:
            return mean_logprob(await response.json(), len(golden.prompt))


def mean_logprob(completion: Mapping[str, Any], answer_from: int) -> float:
    """Nats, over the tokens that begin at or behind character `answer_from` of the echoed text.

    A token that covers the end of the prompt and the beginning of the answer belongs to the prompt. Raises ValueError.
    """
    try:
        found = completion["choices"][0]["logprobs"]
        pairs = zip(found["text_offset"], found["token_logprobs"], strict=True)
        logprobs = [float(logprob) for offset, logprob in pairs if offset >= answer_from and logprob is not None]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no completion with logprobs: {error!r}") from error
    if not logprobs:
        raise ValueError("no token of the answer was scored")
    return sum(logprobs) / len(logprobs)
