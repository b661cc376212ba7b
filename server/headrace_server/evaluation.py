"""What an evaluation is made of: texts whose words are known to be good, what was measured, and what is enough."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path


class BadFile(Exception):
    """A golden file or a file of thresholds that is none; says which line or field, and what belongs there."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A text; what counts of it is what follows `prompt`, which may be empty."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Quality:
    """How a model that answers differs from another one, over all tokens that count."""

    texts: int
    tokens: int
    perplexity: float
    base_perplexity: float
    perplexity_increase: float  # 0.01: one percent
    nats_lost: float  # a token, in the mean: what the operator's canaries call qualityLoss
    token_agreement: float  # share of the places where both think the same token the likeliest
    kl: float  # nats a token, of the model from the base, over all tokens of the vocabulary


@dataclass(frozen=True, slots=True)
class EmbeddingQuality:
    """How a model that embeds differs from another one."""

    texts: int
    cosine: float  # between both vectors of a text, in the mean
    least_cosine: float
    recall_at_k: float  # share of the base's k nearest other texts that are among the model's k nearest
    k: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Beyond them a model has become worse. A file of them is a JSON object of some of these fields."""

    perplexity_increase: float = 0.01  # at most
    nats_lost: float = 0.05  # at most
    token_agreement: float = 0.9  # at least
    kl: float = 0.05  # at most
    cosine: float = 0.99  # at least
    least_cosine: float = 0.95  # at least
    recall_at_k: float = 0.9  # at least
    task_drop: float = 0.02  # at most, of each score of --tasks


AT_LEAST = {"token_agreement", "cosine", "least_cosine", "recall_at_k"}


def regressions(found: Quality | EmbeddingQuality, allowed: Thresholds) -> list[str]:
    """A sentence for each figure beyond its threshold. What is no number is beyond it, too."""
    said = []
    for name, limit in asdict(allowed).items():
        value = getattr(found, name, None)
        if value is None:
            continue
        least = name in AT_LEAST
        if not (value >= limit if least else value <= limit):
            said.append(f"{name} is {value:.5g}, {'at least' if least else 'at most'} {limit:g} is allowed")
    return said


def read_thresholds(path: Path) -> Thresholds:
    """Raises BadFile."""
    known = {field.name for field in fields(Thresholds)}
    given = _parsed(path, path.read_text(encoding="utf-8"))
    if not isinstance(given, dict):
        raise BadFile(f"{path}: must be a JSON object of some of {', '.join(sorted(known))}")
    for name, value in given.items():
        if name not in known:
            raise BadFile(f"{path}: {name} is not known; known: {', '.join(sorted(known))}")
        if type(value) not in (int, float):
            raise BadFile(f"{path}: {name} is {value!r}; must be a number")
    return Thresholds(**given)


def read_golden(path: Path) -> tuple[Golden, ...]:
    """A JSON object a line: {"text": ...}, or {"prompt": ..., "answer": ...} as a canary's golden prompts.

    Raises BadFile.
    """
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    found = tuple(_golden(f"{path}, line {number}", line) for number, line in lines if line.strip())
    if not found:
        raise BadFile(f"{path}: holds no texts")
    return found


def _golden(where: str, line: str) -> Golden:
    given = _parsed(where, line)
    if not isinstance(given, dict):
        raise BadFile(f"{where}: must be a JSON object with text, or with prompt and answer")
    if "text" in given:
        return Golden("", _text(where, given, "text"))
    return Golden(_text(where, given, "prompt"), _text(where, given, "answer"))


def _text(where: str, given: Mapping[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise BadFile(f"{where}: {name} is {value!r}; must be a text, and not an empty one")
    return value


def _parsed(where: object, text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except ValueError as broken:
        raise BadFile(f"{where}: is not JSON: {broken}") from broken
    return parsed
