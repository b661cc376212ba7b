"""Which model a request goes to: the table of rules, and the file they come from."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_router.models_file import parsed
from headrace_router.pick.rules import DEFAULT, Fallback, Traits, is_unsure
from hypothesis import given
from hypothesis import strategies as st

FILE = """
models:
  small: {deployment: default/scripture-1m, costPerHour: 1.5}
  large: {replicas: ["127.0.0.1:50051:8000"], costPerHour: 6}
rules:
  - {name: premium, header: {X-Tier: premium}, model: large}
  - {name: acme at night, tenant: acme, header: {x-hour: night}, model: large}
  - {name: long, requestBytes: 4000, model: large}
  - {name: hard, score: {header: X-Difficulty, atLeast: 0.7}, model: large}
  - {name: hard to say, score: {field: difficulty, atLeast: 0.7}, model: large}
default: small
fallback: {from: small, to: large, meanLogprob: -1.5}
"""


def traits(size: int = 10, tenant: str = "", body: str = "", **headers: str) -> Traits:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Traits(named, tenant, size, body.encode())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(traits(), ("small", DEFAULT), id="nothing fits"),
        pytest.param(traits(x_tier="premium"), ("large", "premium"), id="a header"),
        pytest.param(traits(x_tier="basic"), ("small", DEFAULT), id="another value"),
        pytest.param(traits(tenant="acme"), ("small", DEFAULT), id="one of two conditions"),
        pytest.param(traits(tenant="acme", x_hour="night"), ("large", "acme at night"), id="both"),
        pytest.param(traits(size=3999), ("small", DEFAULT), id="just short"),
        pytest.param(traits(size=4000), ("large", "long"), id="long"),
        pytest.param(traits(size=4000, x_tier="premium"), ("large", "premium"), id="the first that fits"),
        pytest.param(traits(x_difficulty="0.7"), ("large", "hard"), id="a score in a header"),
        pytest.param(traits(x_difficulty="0.69"), ("small", DEFAULT), id="a lower score"),
        pytest.param(traits(x_difficulty="very"), ("small", DEFAULT), id="no score"),
        pytest.param(
            traits(body='{"metadata": {"difficulty": "0.9"}}'), ("large", "hard to say"), id="a score in the body"
        ),
        pytest.param(traits(body='{"difficulty": 1e-3}'), ("small", DEFAULT), id="a small one"),
        pytest.param(traits(body='{"difficulty": "+-"}'), ("small", DEFAULT), id="one that is no number"),
    ],
)
def test_the_first_rule_that_fits_names_the_model(request_: Traits, expected: tuple[str, str]) -> None:
    assert parsed(yaml.safe_load(FILE)).rules.chosen(request_) == expected


def test_what_the_rules_look_at_is_known() -> None:
    rules = parsed(yaml.safe_load(FILE)).rules
    assert rules.headers() == {"x-tier", "x-hour", "x-difficulty"}
    assert rules.needs_length()


@given(st.binary(max_size=200))
def test_any_body_has_a_model(body: bytes) -> None:
    assert parsed(yaml.safe_load(FILE)).rules.chosen(Traits({}, "", len(body), body))[0] in {"small", "large"}


@pytest.mark.parametrize(
    ("logprobs", "unsure"),
    [([], False), ([-1.5], False), ([-1.6], True), ([-3.0, -0.1], True), ([-2.9, -0.1], False)],
)
def test_an_answer_is_unsure_by_the_mean_of_its_tokens(logprobs: list[float], unsure: bool) -> None:
    assert is_unsure(Fallback("small", "large", -1.5), logprobs) is unsure


def test_the_documentation_shows_a_file_that_is_taken() -> None:
    page = (Path(__file__).parents[3] / "docs" / "router.md").read_text()
    shown = page.partition("```yaml\nmodels:")[2].partition("```")[0]
    assert len(parsed(yaml.safe_load(f"models:{shown}")).rules.rules) == 5


def with_(**fields: Any) -> dict[str, Any]:
    return {**yaml.safe_load(FILE), **fields}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "the file is None"),
        (with_(models={}), "models is empty"),
        (with_(models={"small": {}, "large": {"replicas": ["a"]}}), "models.small: give either deployment"),
        (with_(models={"small": {"deployment": "a/b", "price": 1}}), "models.small has no field 'price'"),
        (with_(models={"a b": {"deployment": "a/b"}}), "models.a b: a model's name must be"),
        (with_(models={"a" * 129: {"deployment": "a/b"}}), "at most 128 letters"),
        (with_(models={"small": {"deployment": "a/b", "replicaCa": 1}}), "models.small.replicaCa is 1; must be text"),
        (with_(default="medium"), "default is 'medium'; must be one of large, small"),
        (with_(rules=[{"name": "x", "model": "large"}]), r"rules\[0\] has no condition"),
        (with_(rules=[{"name": "x", "model": "larg", "tenant": "a"}]), r"rules\[0\].model is 'larg'"),
        (with_(rules=[{"name": "default", "model": "large", "tenant": "a"}]), r"rules\[0\].name is 'default'"),
        (with_(rules=[{"model": "large", "tenant": "a"}]), r"rules\[0\].name is None"),
        (with_(rules=[{"name": "x", "model": "large", "requestBytes": 0}]), r"rules\[0\].requestBytes is 0"),
        (with_(rules=[{"name": "x", "model": "large", "score": {"atLeast": 1}}]), r"rules\[0\].score: give either"),
        (
            with_(rules=[{"name": "x", "model": "large", "score": {"header": "a", "atLeast": "1"}}]),
            r"rules\[0\].score.atLeast is '1'; must be a number",
        ),
        (with_(rules=[{"name": "x", "model": "large", "header": {"a": "1", "b": "2"}}]), r"rules\[0\].header names 2"),
        (with_(fallback={"from": "small", "to": "small", "meanLogprob": -1}), "fallback.to is 'small'"),
        (with_(fallback={"from": "small", "to": "large", "meanLogprob": 1}), "fallback.meanLogprob is 1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(body: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parsed(body)
