"""Traces are read as published, and bad ones are refused with the line and the field."""

from pathlib import Path

import pytest
from headrace_operator.simulate.traces import InvalidTrace, Request, lead_in, read, scaled

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(
            "a.csv",
            AZURE + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:05.4799600,3180,8\n",
            id="Azure 2023: seven digits",
        ),
        pytest.param(
            "a.csv",
            AZURE + "2024-05-10 00:00:00.000000+00:00,4808,10\n2024-05-10 00:00:01.500000+00:00,3180,8\n",
            id="Azure 2024: a zone",
        ),
        pytest.param(
            "a.csv",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,ChatGPT,4808,10,4818,API log\n6.5,GPT-4,3180,8,3188,API log\n",
            id="BurstGPT: seconds",
        ),
        pytest.param(
            "a.jsonl",
            '{"timestamp": 1000, "input_length": 4808, "output_length": 10, "hash_ids": [0]}\n'
            '{"timestamp": 2500, "input_length": 3180, "output_length": 8, "hash_ids": [1]}\n',
            id="Mooncake: milliseconds",
        ),
    ],
)
def test_published_forms_are_read_as_they_are(tmp_path: Path, name: str, text: str) -> None:
    first, second = read(written(tmp_path, name, text))
    assert first == Request(0.0, 4808, 10)
    assert second == pytest.approx(Request(1.5, 3180, 8))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "when,what\n1,2\n", "line 1: the header must name the columns TIMESTAMP"),
        ("a.csv", AZURE + "yesterday,1,2\n", "line 2: TIMESTAMP must be a time, not 'yesterday'"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,many,2\n", "line 2: ContextTokens must be a whole number"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,1,-2\n", "line 2: GeneratedTokens must be a whole number"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,1\n", "line 2: GeneratedTokens must be a whole number"),
        ("a.csv", AZURE + "2023-11-16 18:17:09,1,2\n2023-11-16 18:17:03,1,2\n", "sort the lines by time"),
        ("a.csv", AZURE, "no request"),
        ("a.jsonl", "nonsense\n", "line 1: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: must be an object"),
        ("a.jsonl", '{"timestamp": 1, "input_length": 2}\n', "line 1: output_length must be"),
        ("a.txt", "", "must end in .csv or .jsonl"),
    ],
)
def test_a_bad_trace_is_refused_with_its_place(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(InvalidTrace, match=told) as refused:
        read(written(tmp_path, name, text))
    assert name in str(refused.value)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_scale_changes_the_rate_and_keeps_bursts_as_long_as_they_were(scale: float) -> None:
    burst = [Request(100.0 + n / 100, 10, 5) for n in range(400)]
    calm = [Request(float(n), 10, 5) for n in range(100)]
    made = scaled(sorted([*calm, *burst]), scale)
    assert len(made) == pytest.approx(500 * scale, abs=1)
    inside = sum(100.0 <= request.at <= 104.0 for request in made)
    assert inside == pytest.approx(400 * scale, rel=0.05)
    assert made[-1].at <= 104.0


def test_the_lead_in_is_the_beginning_once_more() -> None:
    requests = [Request(float(n), 10, 5) for n in range(10)]
    played = lead_in(requests, 3.0)
    assert [request.at for request in played] == [0, 1, 2, *range(3, 13)]
