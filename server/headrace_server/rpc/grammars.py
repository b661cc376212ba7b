"""From a format to a grammar that the engine can ask: which tokens may come next?

The work is llguidance's. A format is compiled once, in a thread, and kept; each answer gets a copy, which is its own.
The library lets the interpreter go while it compiles and while it fills a mask.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from headrace_server.engine.limits import Limits
from headrace_server.errors import InvalidRequest
from headrace_server.request import Grammar
from headrace_server.rpc.structured import SCHEMA_OPTIONS, Format, Kind

KEPT = 64  # formats; a client sends the same few again and again
LONGEST_CAUSE = 300  # characters
# llguidance's unit of work on a regex while a mask is filled, which the whole batch waits for. Nested repetitions held
# a mask up for 100 ms with the default of 200,000 and for 5 ms with this; then the answer ends with an error.
FUEL_PER_MASK = 20_000


class Grammars:
    def __init__(self, tokenizer: LLTokenizer | None, why_none: str = "") -> None:
        """`why_none` tells callers why this model has no structured output."""
        self._tokenizer = tokenizer
        self._why_none = why_none
        # One thread: formats that are slow to compile (seconds were seen) wait for each other, and nobody else does.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._compiled = lru_cache(maxsize=KEPT)(_compiled)

    async def grammar(self, wanted: Format) -> Grammar:
        """Of one answer, at its beginning. Raises InvalidRequest naming the format's field."""
        if self._tokenizer is None:
            raise InvalidRequest(wanted.field, f"is not served with this model: {self._why_none}; leave it out")
        loop = asyncio.get_running_loop()
        matcher = await loop.run_in_executor(self._thread, self._compiled, self._tokenizer, wanted)
        return _AnswerGrammar(matcher.deep_copy(), wanted.field)


def load_grammars(model: Path, limits: Limits) -> Grammars:
    """A tokenizer that the library cannot read costs structured output, not the model.

    Takes 0.1 s for 32k tokens and 0.6 s for 128k, and the interpreter stands still meanwhile: call it before serving.
    """
    if not limits.eos_token_ids:
        return Grammars(None, "its checkpoint names no eos_token_id")
    document = (model / "tokenizer.json").read_text(encoding="utf-8")
    try:
        return Grammars(LLTokenizer(document, n_vocab=limits.vocab_size, eos_token=list(limits.eos_token_ids)))
    except ValueError as unreadable:
        return Grammars(None, f"its tokenizer.json is not supported: {_cause(str(unreadable))}")


class _AnswerGrammar:
    """A `request.Grammar`."""

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher = matcher
        self._field = field

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()

    def accept(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            raise self._lost()

    def fill(self, row: NDArray[np.int32]) -> None:
        if not row.flags.c_contiguous:  # the library gets an address and a length, and checks the length
            raise ValueError("a mask's row must be contiguous")
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            raise self._lost()

    def _lost(self) -> InvalidRequest:
        cause = _cause(self._matcher.get_error())
        return InvalidRequest(self._field, f"left no way to go on with the answer: {cause}; simplify it")


def _compiled(tokenizer: LLTokenizer, wanted: Format) -> LLMatcher:
    """Warm: the first mask, the dearest one, has been computed. Raises InvalidRequest."""
    try:
        # Errors without the grammar and the answer so far in them: they go to logs.
        limits = LLParserLimits(verbose_errors=False, step_lexer_fuel=FUEL_PER_MASK)
        matcher = LLMatcher(tokenizer, _source(wanted), log_level=0, limits=limits)
    except ValueError as invalid:
        raise _refusal(wanted, str(invalid)) from invalid
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise _refusal(wanted, matcher.get_error())
    return matcher


def _source(wanted: Format) -> str:
    match wanted.kind:
        case Kind.JSON_SCHEMA:
            # As overrides: a schema may carry options of the library, which are not its author's to choose.
            return LLMatcher.grammar_from_json_schema(wanted.text, overrides=SCHEMA_OPTIONS)
        case Kind.REGEX:
            return LLMatcher.grammar_from_regex(wanted.text)
        case Kind.LARK:
            return LLMatcher.grammar_from_lark(wanted.text)


def _refusal(wanted: Format, message: str) -> InvalidRequest:
    return InvalidRequest(wanted.field, f"cannot be enforced: {_cause(message)}; correct it, or leave that part out")


def _cause(message: str) -> str:
    """The library's own words, without the excerpts of the grammar that it points into."""
    lines = message.splitlines() or [""]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if told:
        return f"regex: {told[0]}"[:LONGEST_CAUSE]
    return lines[0][:LONGEST_CAUSE]
