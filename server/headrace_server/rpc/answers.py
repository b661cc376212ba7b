"""The one way from a door into the engine: text to tokens, tokens back to text, stop strings, usage.

Ask ──tokenise──► Request ──engine.submit──► Token, Token, ... ──detokenise──► Piece, Piece, ...
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from headrace_server.engine.loop import Limits
from headrace_server.request import Finish, Request, Token
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.rpc.detokenise import Detokeniser, StopStrings
from headrace_server.rpc.text import Text

LONG_TEXT = 4096  # characters; tokenising more takes over a millisecond, which other streams must not wait for


class Tokens(Protocol):
    """One request in the engine; closing it cancels the request."""

    def __aiter__(self) -> AsyncIterator[Token]: ...

    async def aclose(self) -> None: ...

    def arrived(self) -> Token | None:
        """The next token, if it is here already."""

    def stop(self) -> None:
        """Ends the request as answered."""


class Engine(Protocol):
    def submit(self, request: Request) -> Tokens:
        """Raises a ServerError now, or gives the tokens as they come."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    generated_tokens: int
    queue_wait: float  # seconds from arrival to the first step that included the request
    ttft: float  # seconds from arrival to the first token


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new for the caller. `finish` and `usage` come with the last one."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    usage: Usage | None = None

    def followed_by(self, other: "Piece") -> "Piece":
        return Piece(self.text + other.text, self.token_ids + other.token_ids, other.finish, other.usage)


class Answers:
    def __init__(self, engine: Engine, text: Text, limits: Limits, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._text = text
        self._limits = limits
        self._clock = clock  # the engine's

    @property
    def limits(self) -> Limits:
        return self._limits

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[AsyncIterator[Piece]]:
        """Refuses with a ServerError before anything is yielded. Leaving the block cancels what still runs."""
        request = await self._request(ask, arrived_at=self._clock())
        tokens = self._engine.submit(request)
        answer = _Answer(request, self._text.detokeniser(request.prompt), StopStrings(ask.stop), self._clock)
        # aclosing: a caller that hangs up must free its KV pages now, not at the next garbage collection.
        async with aclosing(tokens), aclosing(_pieces(tokens, answer)) as pieces:
            yield pieces

    async def _request(self, ask: Ask, arrived_at: float) -> Request:
        prompt = await self._token_ids(ask.prompt)
        return Request(
            id=uuid4().hex,
            prompt=prompt,
            max_new_tokens=self._new_tokens(ask, len(prompt)),
            arrived_at=arrived_at,
            sampling=ask.sampling,
            stop_token_ids=frozenset() if ask.ignore_eos else frozenset(self._limits.eos_token_ids),
        )

    async def _token_ids(self, prompt: str | tuple[int, ...] | Chat) -> tuple[int, ...]:
        match prompt:
            case tuple():
                return prompt
            case str() if len(prompt) < LONG_TEXT:
                return self._text.encode(prompt)
            case str():
                return await asyncio.to_thread(self._text.encode, prompt)
            case Chat(messages):
                return await asyncio.to_thread(self._text.encode_chat, messages)

    def _new_tokens(self, ask: Ask, prompt_tokens: int) -> int:
        if ask.max_new_tokens is not None:
            return ask.max_new_tokens
        left = max(1, self._limits.max_context - prompt_tokens)  # a prompt that is too long is the engine's to refuse
        return left if ask.default_new_tokens is None else min(left, ask.default_new_tokens)


async def _pieces(tokens: Tokens, answer: "_Answer") -> AsyncGenerator[Piece, None]:
    async for token in tokens:
        piece = answer.piece(token)
        # While a message is sent more tokens may come; one message for all of them lets a busy door catch up.
        while piece.finish is None and (late := tokens.arrived()) is not None:
            piece = piece.followed_by(answer.piece(late))
        if piece.finish is Finish.STOP:
            tokens.stop()  # a stop string: before the next step, and counted as answered, not as cancelled
        yield piece
        if piece.finish is not None:
            return


class _Answer:
    """What one request has received so far."""

    def __init__(
        self, request: Request, detokeniser: Detokeniser, stops: StopStrings, clock: Callable[[], float]
    ) -> None:
        self._request = request
        self._detokeniser = detokeniser
        self._stops = stops
        self._clock = clock
        self._generated = 0
        self._ttft = 0.0

    def piece(self, token: Token) -> Piece:
        text = "" if token.id is None else self._next_text(token.id)
        if token.finish is not None and not self._stops.found:
            text += self._rest()
        finish = Finish.STOP if self._stops.found else token.finish
        ids = () if token.id is None else (token.id,)
        return Piece(text, ids, finish, self._usage(token) if finish is not None else None)

    def _next_text(self, token_id: int) -> str:
        if self._generated == 0:
            self._ttft = self._clock() - self._request.arrived_at
        self._generated += 1
        return self._stops.feed(self._detokeniser.feed(token_id))

    def _rest(self) -> str:
        text = self._stops.feed(self._detokeniser.flush())
        return text if self._stops.found else text + self._stops.flush()

    def _usage(self, token: Token) -> Usage:
        return Usage(len(self._request.prompt), self._generated, token.queue_wait, self._ttft)
