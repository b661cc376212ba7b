"""What a manifest may say of tokens that are guessed ahead. Off until it is asked for."""

from dataclasses import dataclass

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section
from headrace_operator.sources import Source, beside

DRAFT = "draft"
MOST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Speculative:
    method: str  # ngram or draft
    draft_model: Source | None = None  # in the volume of the model; set with draft
    tokens: int | None = None  # guessed for a request in a step; None = the server's own default
    max_batch: int | None = None  # requests beyond which nothing is guessed; None = as the server measures


def speculative(given: Section, source: Source) -> Speculative:
    """`source`: of the model. Raises InvalidSpec."""
    method = given.one_of("method", ("ngram", DRAFT))
    tokens = given.whole_if_given("tokens")
    if tokens is not None and tokens > MOST_TOKENS:
        raise InvalidSpec(given.field("tokens"), f"must be at most {MOST_TOKENS}, not {tokens}")
    return Speculative(method, _draft_model(given, method, source), tokens, given.whole_if_given("maxBatch"))


def _draft_model(given: Section, method: str, source: Source) -> Source | None:
    text, field = given.text_if_given("draftModel"), given.field("draftModel")
    if (method == DRAFT) is not (text is not None):
        raise InvalidSpec(field, "must be given with method draft, and with no other")
    if text is None:
        return None
    found = beside(source, text)
    if found is None:
        raise InvalidSpec(field, f"must be a path in the model's volume, or hf:// if the source is, not {text!r}")
    return found
