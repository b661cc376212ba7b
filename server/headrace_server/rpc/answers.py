"""The one way from a door into the engine: text to tokens, tokens back to text, stop strings, logprobs, usage.

Ask ──tokenise──► Request ──engine.submit──► Token, Token, ... ──detokenise──► Piece, Piece, ...
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from headrace_server.engine.limits import Limits
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Grammar, Request, Token
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.rpc.detokenise import Detokenises, StopStrings, Timed
from headrace_server.rpc.scores import Score, Scorer
from headrace_server.rpc.structured import Format, check_goes_with
from headrace_server.rpc.text import Text
from headrace_server.rpc.tool_calls import Form
from headrace_server.rpc.witness import Moments, Witness
from headrace_server.telemetry.answered import Hear

LONG_TEXT = 4096  # characters; tokenising more takes over a millisecond, which other streams must not wait for
PROMPT_SCORES = 256  # in one piece: with 20 candidates each some 100 KiB, far below gRPC's 4 MiB for a message


class Tokens(Protocol):
    """One request in the engine; closing it cancels the request."""

    def __aiter__(self) -> AsyncIterator[Token]: ...

    async def aclose(self) -> None: ...

    @property
    def times(self) -> Moments: ...

    def arrived(self) -> Token | None:
        """The next token, if it is here already."""

    def stop(self) -> None:
        """Ends the request as answered."""


class Engine(Protocol):
    def submit(self, request: Request) -> Tokens:
        """Raises a ServerError now, or gives the tokens as they come."""

    async def profile(self, steps: int, path: Path, patience: float) -> int:
        """How many steps were profiled into `path`, within so many seconds. Raises NotNow."""

    async def sleep(self) -> None:
        """Without a KV cache, until `wake_up`. Raises NotNow."""

    async def wake_up(self) -> None:
        """Likewise."""

    @property
    def asleep(self) -> bool: ...


class Grammars(Protocol):
    async def grammar(self, wanted: Format) -> Grammar:
        """Of one answer. Raises InvalidRequest naming the format's field."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    generated_tokens: int
    queue_wait: float  # seconds from arrival to the first step that included the request
    ttft: float  # seconds from arrival to the first token
    decode: float = 0.0  # seconds from the first token to the last
    cached_tokens: int = 0  # of the prompt, those found in the prefix cache


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new for the caller. `finish` and `usage` come with the last one."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    scores: tuple[Score, ...] = ()  # of `token_ids`, when logprobs were asked for
    prompt_scores: tuple[Score, ...] = ()  # of prompt tokens, the first one included; before the answer
    prompt_tokens: int = 0  # of the whole prompt; 0: this piece brings no token


def joined(pieces: Sequence[Piece]) -> Piece:
    """What one piece in their place would be."""
    return Piece(
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token_id for piece in pieces for token_id in piece.token_ids),
        finish=pieces[-1].finish,
        usage=pieces[-1].usage,
        scores=tuple(score for piece in pieces for score in piece.scores),
        prompt_scores=tuple(score for piece in pieces for score in piece.prompt_scores),
        prompt_tokens=pieces[-1].prompt_tokens,
    )


Opened = AbstractAsyncContextManager[AsyncIterator[Piece]]
Compute = Callable[[Ask], Opened]


class Known(Protocol):
    """Answers that need not be computed."""

    def open(self, ask: Ask, compute: Compute) -> Opened:
        """`compute` gives those that are not known; refuses as it does."""


class Answers:
    def __init__(
        self,
        engine: Engine,
        text: Text,
        limits: Limits,
        clock: Callable[[], float],
        *,
        grammars: Grammars | None = None,
    ) -> None:
        """`grammars` None: structured output is refused."""
        self._engine = engine
        self._text = text
        self._limits = limits
        self._clock = clock  # the engine's
        self._grammars = grammars
        self._witness = Witness((), clock)
        self._known: Known | None = None

    def tell(self, hears: Sequence[Hear], times_detokenising: bool) -> None:
        """From now on `hears` are told of each request when it is over."""
        self._witness = Witness(hears, self._clock, times_detokenising)

    def look_first(self, known: Known) -> None:
        """From now on only what is not known is computed."""
        self._known = known

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def max_tokens(self) -> int:
        """Of a prompt and its answer."""
        return self._limits.max_context

    @property
    def tool_form(self) -> Form | None:
        """In which the model calls tools; None: in none that is known."""
        return self._text.tool_form

    def open(self, ask: Ask) -> Opened:
        """Refuses with a ServerError before anything is yielded. Leaving the block cancels what still runs."""
        return self._computed(ask) if self._known is None else self._known.open(ask, self._computed)

    @asynccontextmanager
    async def _computed(self, ask: Ask) -> AsyncIterator[AsyncIterator[Piece]]:
        with self._witness.follow(ask) as followed:
            request = followed.request = await self._request(ask, arrived_at=followed.arrived)
            echo = await self._echo(ask, request.prompt) if ask.echo else None
            tokens = self._engine.submit(request)
            answer = _Answer(ask, request, self._text, echo, self._clock)
            if self._witness.detokenising:
                answer.time_detokenising()
            followed.moments, followed.progress = tokens.times, answer
            # aclosing: a caller that hangs up must free its KV pages now, not at the next garbage collection.
            async with aclosing(tokens), aclosing(_pieces(tokens, answer)) as pieces:
                yield pieces

    async def tokenise(self, prompt: str | Chat, *, special: bool = True) -> tuple[int, ...]:
        """As `open` would; without the special tokens that it adds to a text, if `special` is not. Raises
        InvalidRequest."""
        if isinstance(prompt, str) and not special:
            return await asyncio.to_thread(self._text.encode_plainly, prompt)
        return await self._token_ids(prompt)

    @property
    def tokenizer_info(self) -> dict[str, str | None]:
        """Special tokens by their name, and the chat template."""
        return self._text.info

    def token_names(self, token_ids: tuple[int, ...]) -> list[str]:
        """As the tokenizer's vocabulary has them."""
        return self._text.names(token_ids)

    async def detokenise(self, token_ids: tuple[int, ...]) -> str:
        """Without special tokens. Raises InvalidRequest for ids that the model does not have."""
        self._limits.check_vocabulary("tokens", token_ids)
        return await asyncio.to_thread(self._text.decode, token_ids)

    async def _request(self, ask: Ask, arrived_at: float) -> Request:
        ask.check_vocabulary(self._limits.vocab_size)
        prompt = await self._token_ids(ask.prompt)
        new_tokens = self._new_tokens(ask, len(prompt))
        ask.check_length(new_tokens)
        return Request(
            id=uuid4().hex,
            prompt=prompt,
            max_new_tokens=new_tokens,
            arrived_at=arrived_at,
            sampling=ask.sampling,
            stop_token_ids=ask.stop_tokens(self._limits.eos_token_ids),
            stop=ask.stop,
            stops=self._text.stop_matcher(ask.stop, prompt, ask.sampling.min_tokens) if ask.stop else None,
            prompt_logprobs=_prompt_logprobs(ask, new_tokens),
            tenant=ask.tenant,
            adapter=ask.adapter,
            cache_scope=ask.cache_scope,
            grammar=await self._grammar(ask),
            priority=ask.priority,
            deadline=None if ask.timeout is None else arrived_at + ask.timeout,
            asked_before=ask.came_with.attempts_before > 0,
        )

    async def _token_ids(self, prompt: str | tuple[int, ...] | Chat) -> tuple[int, ...]:
        match prompt:
            case tuple():
                return prompt
            case str() if len(prompt) < LONG_TEXT:
                return self._text.encode(prompt)
            case str():
                return await asyncio.to_thread(self._text.encode, prompt)
            case Chat():
                return await asyncio.to_thread(self._text.encode_chat, prompt)

    async def _grammar(self, ask: Ask) -> Grammar | None:
        wanted = ask.format
        if isinstance(ask.prompt, Chat) and ask.prompt.offer is not None:
            wanted = ask.prompt.offer.format(self.tool_form, ask.format)
            check_goes_with(wanted, ask.ignore_eos)
        if wanted is None:
            return None
        if self._grammars is None:
            raise InvalidRequest(wanted.field, "is not served here; leave it out")
        if ask.format is not None and ask.format is not wanted:
            await self._grammars.grammar(ask.format)  # its own fault, by its own name, before it is a part of another
        return await self._grammars.grammar(wanted)

    async def _echo(self, ask: Ask, prompt: tuple[int, ...]) -> "_Echo":
        parts = await asyncio.to_thread(self._text.decode_each, prompt)
        text = ask.prompt if isinstance(ask.prompt, str) else "".join(parts)
        return _Echo(text, tuple(accumulate(map(len, parts), initial=0))[: len(parts)])

    def _new_tokens(self, ask: Ask, prompt_tokens: int) -> int:
        if ask.max_new_tokens is not None:
            return ask.max_new_tokens
        left = max(1, self._limits.max_context - prompt_tokens)  # a prompt that is too long is the engine's to refuse
        return left if ask.default_new_tokens is None else min(left, ask.default_new_tokens)


@dataclass(frozen=True, slots=True)
class _Echo:
    text: str
    offsets: tuple[int, ...]  # of the prompt's tokens in it


async def _pieces(tokens: Tokens, answer: "_Answer") -> AsyncGenerator[Piece, None]:
    if opening := answer.opening():
        yield opening
    async for token in tokens:
        for prompt_piece in answer.prompt_pieces(token):
            yield prompt_piece
            await asyncio.sleep(0)  # a long prompt's scores take milliseconds; other streams go on between
        fresh = [answer.piece(token)]
        # While a message is sent more tokens may come; one message for all of them lets a busy door catch up.
        while fresh[-1].finish is None and (late := tokens.arrived()) is not None:
            fresh.append(answer.piece(late))
        piece = fresh[0] if len(fresh) == 1 else joined(fresh)
        if piece.finish is Finish.STOP:
            tokens.stop()  # a stop string: before the next step, and counted as answered, not as cancelled
        yield piece
        if piece.finish is not None:
            return


class _Answer:
    """What one request has received so far."""

    def __init__(self, ask: Ask, request: Request, text: Text, echo: _Echo | None, clock: Callable[[], float]) -> None:
        self._request = request
        self._detokeniser: Detokenises = text.detokeniser(request.prompt)
        self._stops = StopStrings(request.stop)
        self._unsearched = request.sampling.min_tokens  # tokens to come in which a stop string does not count
        self._echo = echo
        self._prompt_scorer = _scorer(text, ask.prompt_logprobs)
        self._prompt_is_scored = False
        self._scorer = _scorer(text, ask.sampling.logprobs)
        self._clock = clock
        self._timed: Timed | None = None
        self.finish: Finish | None = None
        self._generated = 0
        self._ttft = 0.0
        self._read = 0 if echo is None else len(echo.text)  # characters of the text up to the latest token

    @property
    def generated(self) -> int:
        return self._generated

    @property
    def detokenising(self) -> float | None:
        """Seconds; None: not measured."""
        return None if self._timed is None else self._timed.seconds

    def time_detokenising(self) -> None:
        self._detokeniser = self._timed = Timed(self._detokeniser, self._clock)

    def opening(self) -> Piece | None:
        return None if self._echo is None or not self._echo.text else Piece(self._echo.text)

    def prompt_pieces(self, token: Token) -> Iterator[Piece]:
        """With the scores that the first token brings."""
        if self._prompt_scorer is None or self._prompt_is_scored:
            return
        self._prompt_is_scored = True
        prompt = self._request.prompt
        if len(token.prompt_logprobs) != len(prompt) - 1:
            raise AssertionError("the engine left out logprobs of the prompt. This is a bug.")
        offsets = (0,) * len(prompt) if self._echo is None else self._echo.offsets
        first = self._prompt_scorer.first(prompt[0], offsets[0])
        scores = chain([first], map(self._prompt_scorer.score, token.prompt_logprobs, offsets[1:]))
        while part := tuple(islice(scores, PROMPT_SCORES)):
            yield Piece(prompt_scores=part)

    def piece(self, token: Token) -> Piece:
        scores = self._scores(token)
        text = "" if token.id is None else self._next_text(token.id)
        if token.finish is not None and not self._stops.found:
            text += self._rest()
        finish = self.finish = Finish.STOP if self._stops.found else token.finish
        ids = () if token.id is None else (token.id,)
        usage = self._usage(token) if finish is not None else None
        return Piece(text, ids, finish, usage, scores, prompt_tokens=len(self._request.prompt))

    def _scores(self, token: Token) -> tuple[Score, ...]:
        if self._scorer is None or token.id is None:
            return ()
        if token.logprobs is None:
            raise AssertionError("the engine left out a token's logprobs. This is a bug.")
        return (self._scorer.score(token.logprobs, self._read),)

    def _next_text(self, token_id: int) -> str:
        if self._generated == 0:
            self._ttft = self._clock() - self._request.arrived_at
        self._generated += 1
        text = self._detokeniser.feed(token_id)
        self._read += len(text)
        return text if self._generated <= self._unsearched else self._stops.feed(text)

    def _rest(self) -> str:
        text = self._stops.feed(self._detokeniser.flush())
        return text if self._stops.found else text + self._stops.flush()

    def _usage(self, token: Token) -> Usage:
        passed = self._clock() - self._request.arrived_at
        ttft = self._ttft if self._generated else passed
        cached = len(self._request.prompt) - token.prompt_computed
        return Usage(len(self._request.prompt), self._generated, token.queue_wait, ttft, passed - ttft, cached)


def _prompt_logprobs(ask: Ask, new_tokens: int) -> int | None:
    """A prompt that is only echoed, without an answer, still has to give the engine something to compute."""
    return 0 if ask.prompt_logprobs is None and ask.echo and new_tokens == 0 else ask.prompt_logprobs


def _scorer(text: Text, top: int | None) -> Scorer | None:
    return None if top is None else Scorer(text.token_bytes.name, top)
