"""Real arrivals as a load: when each request came, and how long its prompt and its answer were.

Three published forms: Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT's CSV (Timestamp in seconds,
Request tokens, Response tokens) and Mooncake's JSONL (timestamp in milliseconds, input_length, output_length, and
hash_ids: one for each 512 tokens, equal where prompts begin alike).
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

from headrace_server.client.prompts import draw_prompt

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURST_GPT = ("Timestamp", "Request tokens", "Response tokens")
BLOCK = 512  # tokens that one of Mooncake's hash_ids stands for


class UnusableTrace(Exception):
    """Says file, line and remedy."""


@dataclass(frozen=True, slots=True)
class Arrival:
    due: float  # seconds since the first one
    prompt_tokens: int
    new_tokens: int
    blocks: tuple[int, ...] = ()  # what the prompt is made of; empty: nobody knows


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """In the order of time. Raises UnusableTrace."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            arrivals = list(_mooncake(file) if first.lstrip().startswith("{") else _csv(file))
    except OSError as error:
        raise UnusableTrace(f"{path}: {error.strerror}") from error
    except _Fault as fault:
        raise UnusableTrace(f"{path}: {fault}") from fault
    if not arrivals:
        raise UnusableTrace(f"{path}: holds no requests")
    start = min(arrival.due for arrival in arrivals)
    moved = (Arrival(each.due - start, each.prompt_tokens, each.new_tokens, each.blocks) for each in arrivals)
    return tuple(sorted(moved, key=lambda each: each.due))


def prompt_of(arrival: Arrival, words: Sequence[str], scale: float, dice: random.Random) -> str:
    """As many words as the prompt had tokens, times `scale`; equal blocks give equal words."""
    length = max(1, round(arrival.prompt_tokens * scale))
    if not arrival.blocks:
        return draw_prompt(words, length, dice)
    block = max(1, round(BLOCK * scale))
    parts = (draw_prompt(words, block, random.Random(number)).split() for number in arrival.blocks)
    return " ".join(list(chain.from_iterable(parts))[:length])


class _Fault(Exception):
    pass


def _csv(lines: Iterator[str]) -> Iterator[Arrival]:
    rows = csv.DictReader(lines)
    given = set(rows.fieldnames or ())
    form = BURST_GPT if set(BURST_GPT) <= given else AZURE
    if missing := set(form) - given:
        raise _Fault(
            f"line 1: has no column {sorted(missing)[0]}; Azure's or BurstGPT's CSV or Mooncake's JSONL is expected"
        )
    at, prompt, answer = form
    for row in rows:
        try:
            due = float(row[at]) if form is BURST_GPT else _moment(row[at])
            yield Arrival(due, int(float(row[prompt])), int(float(row[answer])))
        except (ValueError, TypeError) as strange:
            raise _Fault(f"line {rows.line_num}: is no request: {strange}") from strange


def _moment(text: str) -> float:
    """Of a date: seven digits of a second, where Python reads six."""
    whole, _, part = text.partition(".")
    return datetime.fromisoformat(whole).timestamp() + float(f"0.{part or 0}")


def _mooncake(lines: Iterator[str]) -> Iterator[Arrival]:
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            blocks = tuple(map(int, found.get("hash_ids", ())))
            yield Arrival(found["timestamp"] / 1000, int(found["input_length"]), int(found["output_length"]), blocks)
        except (ValueError, TypeError, KeyError, AttributeError) as strange:
            raise _Fault(f"line {number}: is no request: {type(strange).__name__}: {strange}") from strange
