"""Structured output: the answer is what the caller asked for, whatever the model would rather say."""

import asyncio
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from headrace_server.engine.limits import Limits
from headrace_server.engine.sequence import Chunk, Grant, Start, Step
from headrace_server.errors import InvalidRequest
from headrace_server.model.masking import allowed
from headrace_server.request import Grammar
from headrace_server.rpc.grammars import Grammars, load_grammars
from headrace_server.rpc.structured import (
    LONGEST,
    Format,
    Kind,
    ResponseFormat,
    StructuredOutputs,
    any_json_object,
    check_goes_with,
    format_of,
)
from models import Model, a_model
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from steps import a_start
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
MOST_TOKENS = 300


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Place(Strict):
    name: Annotated[str, Field(min_length=1, max_length=12)]
    height: Annotated[float, Field(ge=0, le=9, multiple_of=0.5)]


class Person(Strict):
    name: Annotated[str, Field(max_length=20)]
    age: Annotated[int, Field(ge=0, le=969)]
    mood: Literal["merry", "sore afraid"]
    king: bool
    born_in: Place
    verses: Annotated[list[Annotated[int, Field(ge=1, le=176)]], Field(min_length=1, max_length=4)]
    wife: Annotated[str, Field(pattern="^[A-Z][a-z]{1,9}$")] | None


class Family(Strict):
    people: Annotated[list[Person], Field(max_length=2)]


class Scalars(Strict):
    quoted: Annotated[str, Field(max_length=6)]
    tens: Annotated[int, Field(ge=-1000, le=1000, multiple_of=10)]
    nothing: None


SCHEMAS = [Place, Person, Family, Scalars]
REGEXES = [
    pytest.param(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", id="a date"),
    pytest.param(r"(yes|no|yea verily)", id="a choice"),
    pytest.param(r"[a-z]{1,12}@[a-z]{1,12}\.(com|org)", id="an address"),
    pytest.param(r"(And [a-z]{1,8} said, ){2}Selah\.", id="words around fixed text"),
    pytest.param(r"[Α-Ωα-ω]{3,6}", id="characters of two bytes"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return a_model(SHIPPED)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


@pytest.fixture(scope="module")
def grammars(model: Model) -> Grammars:
    return load_grammars(SHIPPED, model.loaded.limits)


def a_schema(schema: Any, field: str = "the schema") -> Format:
    return Format(Kind.JSON_SCHEMA, json.dumps(schema), field)


def a_regex(regex: str) -> Format:
    return Format(Kind.REGEX, regex, "the regex")


def the_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


class Chooser:
    """The next token: the likeliest, or one drawn from the model's distribution at temperature 1."""

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, logits: torch.Tensor) -> int:
        if self._generator is None:
            return int(logits.argmax())
        return int(torch.multinomial(logits.softmax(-1), 1, generator=self._generator))


def answer(model: Model, prompt: list[int], grammar: Grammar, choose: Chooser) -> list[int]:
    """Token ids up to where the grammar or an end-of-sequence token ends them."""
    limits = model.loaded.limits
    row = np.zeros(-(-limits.vocab_size // 32), dtype=np.int32)
    pages = range(limits.max_context // model.config.engine.page_size)
    starts: tuple[Start, ...] = (a_start(0),)
    grants = tuple(Grant(0, page, page) for page in pages)
    start, given, ids = 0, tuple(prompt), list[int]()
    while not grammar.finished:
        logits = model.loaded.runner.logits(Step(starts, grants, (Chunk(0, start, given, samples=True),)))
        grammar.fill(row)
        chosen = choose(allowed(logits, torch.from_numpy(row).unsqueeze(0))[0])
        grammar.accept(chosen)
        if chosen in limits.eos_token_ids:
            break
        ids.append(chosen)
        assert len(ids) < MOST_TOKENS, "endless"
        starts, grants, start, given = (), (), start + len(given), (chosen,)
    return ids


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("schema", SCHEMAS)
async def test_the_shipped_model_answers_in_json_of_the_schema(
    model: Model, tokenizer: Tokenizer, grammars: Grammars, schema: type[BaseModel], seed: int | None
) -> None:
    grammar = await grammars.grammar(a_schema(schema.model_json_schema()))
    prompt = tokenizer.encode("And the LORD spake unto Moses, saying, ").ids
    text = tokenizer.decode(answer(model, prompt, grammar, Chooser(seed)), skip_special_tokens=False)
    schema.model_validate_json(text, strict=True)


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("regex", REGEXES)
async def test_the_shipped_model_answers_as_the_regex_says(
    model: Model, tokenizer: Tokenizer, grammars: Grammars, regex: str, seed: int | None
) -> None:
    grammar = await grammars.grammar(a_regex(regex))
    prompt = tokenizer.encode("In the beginning ").ids
    text = tokenizer.decode(answer(model, prompt, grammar, Chooser(seed)), skip_special_tokens=False)
    assert re.fullmatch(regex, text)


def spelled(row: np.ndarray[Any, np.dtype[np.int32]]) -> list[int]:
    """The tokens that a mask allows."""
    return np.unpackbits(row.view(np.uint8), bitorder="little").nonzero()[0].tolist()


def may_follow(grammar: Grammar, vocab_size: int) -> list[int]:
    row = np.zeros(-(-vocab_size // 32), dtype=np.int32)
    grammar.fill(row)
    return spelled(row)


async def test_an_end_of_sequence_token_may_come_where_the_answer_may_end_and_only_there(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    grammar = await grammars.grammar(a_regex("[ab]{1,2}"))
    a = the_id(tokenizer, "a")
    assert 0 not in may_follow(grammar, 4096)
    grammar.accept(a)
    assert 0 in may_follow(grammar, 4096)
    assert not grammar.finished, "a second letter may follow"
    grammar.accept(a)
    assert grammar.finished


async def test_an_end_of_sequence_token_finishes(grammars: Grammars) -> None:
    grammar = await grammars.grammar(a_regex("a*"))
    grammar.accept(0)
    assert grammar.finished


async def test_any_json_object_begins_and_ends_as_one(grammars: Grammars, tokenizer: Tokenizer) -> None:
    grammar = await grammars.grammar(any_json_object("response_format"))
    assert {tokenizer.decode([token])[0] for token in may_follow(grammar, 4096)} == {"{"}
    for token in tokenizer.encode('{"David": [1, {"a":null}]}').ids:
        grammar.accept(token)
    assert grammar.finished


async def test_answers_of_one_format_go_their_own_ways(grammars: Grammars, tokenizer: Tokenizer) -> None:
    one = await grammars.grammar(a_regex("yes|no"))
    other = await grammars.grammar(a_regex("yes|no"))
    before = may_follow(other, 4096)
    for token in tokenizer.encode("no").ids:
        one.accept(token)
    assert one.finished
    assert may_follow(other, 4096) == before


async def test_properties_come_in_the_order_of_the_schema(grammars: Grammars, tokenizer: Tokenizer) -> None:
    properties = {name: {"type": "null"} for name in ("zeal", "ark", "manna")}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    wanted = ResponseFormat.model_validate({"type": "json_schema", "json_schema": {"schema": schema}}).format()
    assert wanted is not None
    grammar = await grammars.grammar(wanted)
    for token in tokenizer.encode('{"zeal":null,"ark":null,"manna":null}').ids:
        grammar.accept(token)
    assert grammar.finished


@pytest.mark.parametrize(
    ("wanted", "cause"),
    [
        pytest.param(a_schema({"type": "strin"}), "Invalid type: strin", id="a type that does not exist"),
        pytest.param(a_schema({"not": {"type": "null"}}), '["not"]', id="a keyword that would not be enforced"),
        pytest.param(a_schema({"not": {}, "x-guidance": {"lenient": True}}), '["not"]', id="and no way around that"),
        pytest.param(a_schema({"minimum": 3, "maximum": 2, "type": "integer"}), "minimum (3)", id="no such number"),
        pytest.param(a_schema({"$ref": "http://127.0.0.1:9/"}), "127.0.0.1", id="a schema that is elsewhere"),
        pytest.param(a_schema({"$ref": "#"}), "NoExtension", id="a schema that is only itself"),
        pytest.param(a_schema({"type": "string", "pattern": "(a"}), "unclosed group", id="a broken pattern"),
        pytest.param(Format(Kind.JSON_SCHEMA, "[", "the schema"), "EOF", id="not JSON"),
        pytest.param(Format(Kind.JSON_SCHEMA, '{"enum":["\\ud800"]}', "the schema"), "escape", id="half a character"),
        pytest.param(a_regex("(a"), "unclosed group", id="a broken regex"),
        pytest.param(a_regex("(?=a)b"), "look-around", id="a look-ahead"),
        pytest.param(a_regex(r"a\1"), "backreferences", id="a reference to what was matched"),
        pytest.param(a_regex(r"[^\x00-\U0010FFFF]"), "NoExtension", id="a regex that nothing matches"),
        pytest.param(a_regex("(" * 300 + ")" * 300), "nested", id="a regex that is nested too deep"),
        pytest.param(a_regex("\ud800"), "surrogates", id="a regex of half a character"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_by_field_and_cause(
    grammars: Grammars, wanted: Format, cause: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await grammars.grammar(wanted)
    assert refused.value.field == wanted.field
    assert cause in refused.value.message
    assert "correct it" in refused.value.message


async def test_a_regex_that_is_too_much_work_costs_its_own_answer_only(grammars: Grammars) -> None:
    grammar = await grammars.grammar(a_regex("b?(((a{100}){100}){100}){100}"))

    def go_on() -> None:
        for _ in range(MOST_TOKENS):
            grammar.accept(may_follow(grammar, 4096)[0])

    with pytest.raises(InvalidRequest, match=r"the regex: left no way to go on .* simplify it"):
        go_on()


async def test_a_token_that_the_mask_forbids_is_not_accepted(grammars: Grammars, tokenizer: Tokenizer) -> None:
    grammar = await grammars.grammar(a_regex("yes|no"))
    with pytest.raises(InvalidRequest, match="the regex"):
        grammar.accept(the_id(tokenizer, "G"))


async def test_the_event_loop_goes_on_while_a_format_is_compiled(grammars: Grammars) -> None:
    compiling = asyncio.ensure_future(grammars.grammar(a_regex("a{50000}")))  # milliseconds
    rounds = 0
    while not compiling.done():
        await asyncio.sleep(0)
        rounds += 1
    assert await compiling
    assert rounds > 10


async def test_a_format_is_compiled_once(grammars: Grammars) -> None:
    for field in ("response_format", "json_schema"):
        await grammars.grammar(a_schema({"const": "compiled once"}, field))
    before = grammars._compiled.cache_info()
    await grammars.grammar(a_schema({"const": "compiled once"}))
    after = grammars._compiled.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)


async def test_ids_beyond_the_tokenizer_and_special_tokens_are_no_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A vocabulary is often padded to a round number; what such a token would mean nobody knows."""
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    grammars = load_grammars(tmp_path, Limits(1024, 5000, (0,), 64))
    grammar = await grammars.grammar(a_regex(".*"))
    special = the_id(tokenizer, "<|end|>")
    grammar.accept(the_id(tokenizer, "a"))
    allowed_ids = may_follow(grammar, 5000)
    assert max(allowed_ids) < 4096
    assert special == 0, "it is allowed as the end of the sequence"
    grammar.accept(special)
    assert grammar.finished


async def test_a_tokenizer_of_words_and_bytes_as_llama_2_has_it(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", '"', '{"', "▁{"]
    tokenizer = Tokenizer(
        BPE({piece: token for token, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    grammars = load_grammars(tmp_path, Limits(1024, len(pieces), (2,), 64))

    grammar = await grammars.grammar(any_json_object("response_format"))
    assert {pieces[token] for token in may_follow(grammar, len(pieces))} == {'{"', "<0x7B>"}
    for piece in ('{"', "a", "▁a", "<0xC3>", "<0xA9>"):
        grammar.accept(pieces.index(piece))
    assert pieces.index("<0xA9>") not in may_follow(grammar, len(pieces)), "no character begins with this byte"


async def test_a_model_whose_tokenizer_is_unknown_is_served_without(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"unknown": 0, "word": 1}, unk_token="unknown"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InvalidRequest, match=r"the regex: is not served with this model: .*leave it out"):
        await load_grammars(tmp_path, Limits(1024, 2, (0,), 64)).grammar(a_regex("a"))


async def test_a_model_without_an_end_is_served_without() -> None:
    with pytest.raises(InvalidRequest, match="names no eos_token_id"):
        await load_grammars(SHIPPED, Limits(1024, 4096, (), 64)).grammar(a_regex("a"))


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        pytest.param({"type": "text"}, None, id="text is no format"),
        pytest.param({"type": "json_object"}, any_json_object("response_format"), id="any object"),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "null"}}},
            Format(Kind.JSON_SCHEMA, '{"type":"null"}', "response_format.json_schema.schema"),
            id="a schema",
        ),
    ],
)
def test_response_format_as_openai_has_it(body: dict[str, Any], wanted: Format | None) -> None:
    assert format_of(ResponseFormat.model_validate(body), None) == wanted


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        pytest.param({"type": "xml"}, ("type",), "json_schema", id="an unknown type"),
        pytest.param({"type": "json_schema"}, (), "needs `json_schema`", id="no schema"),
        pytest.param({"type": "text", "json_schema": {"schema": {}}}, (), "only with it", id="a schema for text"),
        pytest.param(
            {"type": "json_schema", "json_schema": {}}, ("json_schema", "schema"), "required", id="no schema in it"
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": True}}, ("json_schema", "schema"), "dict", id="bool"
        ),
        pytest.param({"type": "json_object", "schema": {}}, ("schema",), "not permitted", id="another dialect"),
    ],
)
def test_a_response_format_that_is_none(body: dict[str, Any], field: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        ResponseFormat.model_validate(body)
    fault = invalid.value.errors()[0]
    assert fault["loc"] == field
    assert message in fault["msg"]


def test_one_answer_has_one_format() -> None:
    regex = StructuredOutputs(regex="a")
    assert format_of(ResponseFormat(type="text"), regex) == Format(Kind.REGEX, "a", "structured_outputs.regex")
    with pytest.raises(InvalidRequest, match=r"structured_outputs: .* leave one of them out"):
        format_of(ResponseFormat(type="json_object"), regex)


def test_a_format_does_not_go_with_an_answer_that_never_ends() -> None:
    check_goes_with(None, ignore_eos=True)
    check_goes_with(a_regex("a"), ignore_eos=False)
    with pytest.raises(InvalidRequest, match="ignore_eos: does not go with the regex"):
        check_goes_with(a_regex("a"), ignore_eos=True)


def test_a_format_has_a_greatest_length() -> None:
    a_regex("a" * LONGEST)
    with pytest.raises(InvalidRequest, match=f"the regex: has {LONGEST + 1} characters; at most {LONGEST}"):
        a_regex("a" * (LONGEST + 1))
