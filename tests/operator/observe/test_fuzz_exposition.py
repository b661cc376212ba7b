"""Whatever a pod answers: a sample of numbers that can be reckoned with, or a refusal. Nothing else."""

import math
from dataclasses import fields

import pytest
from headrace_operator.decide.values import PodSample
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe.exposition import FINISHED, NEEDED, QUEUE_WAIT, REFUSED, parse
from hypothesis import example, given, settings
from hypothesis import strategies as st

GOOD = "".join(f"{name} 1.0\n" for name in NEEDED)
NAMES = [*NEEDED, QUEUE_WAIT, REFUSED, FINISHED, "headrace_unknown"]
VALUES = ["0", "1", "12.5", "1e3", "-1", "NaN", "+Inf", "-Inf", "1e400", "9" * 400, "0x1", "1_0", "x", "", "１"]
LABELS = [
    "",
    '{le="0.1",class="standard"}',
    '{le="+Inf",class="standard"}',
    '{le="NaN"}',
    '{le="x"}',
    '{class="batch",le="1.0"}',
    '{reason="overloaded"}',
    '{reason="late"}',
    '{outcome="failed"}',
    '{outcome="stop"',
    "{}",
]
LINE = st.builds("{}{} {}".format, st.sampled_from(NAMES), st.sampled_from(LABELS), st.sampled_from(VALUES))


def numbers(sample: PodSample) -> list[float]:
    found = [one for pair in sample.queue_waits for one in pair]
    found += [getattr(sample, field.name) for field in fields(sample) if field.name != "queue_waits"]
    return [one for one in found if isinstance(one, int | float)]


def sample_or_refusal(text: str) -> None:
    try:
        sample = parse(text, at=42.0)
    except ScrapeFailed:
        return
    assert sample.at == 42.0
    assert all(one >= 0 for one in numbers(sample))
    bounds = [bound for bound, _ in sample.queue_waits]
    assert all(math.isfinite(one) for one in numbers(sample) if one not in bounds)


@given(lines=st.lists(LINE, max_size=20))
@settings(max_examples=300, deadline=None)
@example(lines=[f"{NEEDED[0]} NaN"])
@example(lines=[f"{NEEDED[0]} +Inf"])
@example(lines=[f"{NEEDED[0]} -1"])
@example(lines=[f'{QUEUE_WAIT}{{le="NaN"}} 1'])
@example(lines=[f'{REFUSED}{{reason="late"}} NaN'])
def test_odd_lines_beside_the_good_ones(lines: list[str]) -> None:
    sample_or_refusal(GOOD + "\n".join(lines) + "\n")
    sample_or_refusal("\n".join(lines) + "\n" + GOOD)


@given(text=st.text(max_size=300) | st.lists(LINE, max_size=30).map("\n".join))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    sample_or_refusal(text)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_number_that_cannot_be_makes_the_sample_unknown(name: str, value: str) -> None:
    with pytest.raises(ScrapeFailed, match=name):
        parse(GOOD.replace(f"{name} 1.0\n", f"{name} {value}\n"), at=0.0)
