"""Recorded requests from a file, as published: Azure's and BurstGPT's CSV, Mooncake's JSONL.

A scale changes the rate and keeps the shape: the n-th request of the scaled trace comes when the trace had seen
n / scale requests, so that bursts stay as long as they were and hold `scale` times the requests.
"""

import bisect
import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from headrace_operator.errors import OperatorError

Value = TypeVar("Value")


class InvalidTrace(OperatorError):
    """A trace that cannot be read: names the file, the line, the field and the remedy."""


class Request(NamedTuple):
    at: float  # seconds since the trace began
    prompt: int  # tokens
    generated: int  # tokens, at least 1
    is_again: bool = False  # it says that it was asked before


@dataclass(frozen=True, slots=True)
class Columns:
    """What a publisher calls the three things that matter."""

    at: str
    prompt: str
    generated: str


CSV_FORMS = (
    Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),  # Azure Public Dataset, 2023 and 2024
    Columns("Timestamp", "Request tokens", "Response tokens"),  # BurstGPT
)
JSONL_FORM = Columns("timestamp", "input_length", "output_length")  # Mooncake; milliseconds


def read(path: Path, *, begin: float = 0.0, seconds: float | None = None) -> list[Request]:
    """`begin`, `seconds`: the part of the trace to take. Raises InvalidTrace."""
    if path.suffix not in _READERS:
        raise InvalidTrace(f"{path}: must end in .csv or .jsonl, which says how it is read")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            found = list(_cut(_ordered(path, _READERS[path.suffix](path, lines)), begin, seconds))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidTrace(f"{path}: cannot be read: {error}") from None
    if not found:
        raise InvalidTrace(
            f"{path}: no request in the part that was asked for; give an earlier --from or a longer --for"
        )
    return found


def scaled(requests: list[Request], scale: float, seed: int = 0) -> list[Request]:
    """`scale` times the rate. The lengths are those of the request whose place in the trace a new one takes."""
    if scale == 1.0 or not requests:
        return requests
    rng = random.Random(seed)
    last = len(requests) - 1
    made = []
    for index in range(round(len(requests) * scale)):
        place = min(last, (index + rng.random()) / scale)
        low = int(place)
        here, then = requests[low], requests[min(last, low + 1)]
        made.append(here._replace(at=here.at + (place - low) * (then.at - here.at)))
    return sorted(made)


def lead_in(requests: list[Request], seconds: float) -> list[Request]:
    """The trace after its own first seconds, which are played once before it: nobody is judged on an empty memory."""
    first = requests[: bisect.bisect_left(requests, (seconds,))]
    return [*first, *(request._replace(at=request.at + seconds) for request in requests)]


def _csv(path: Path, lines: Iterable[str]) -> Iterator[Request]:
    rows = csv.DictReader(lines)
    given = rows.fieldnames or ()
    form = next((form for form in CSV_FORMS if {form.at, form.prompt, form.generated} <= set(given)), None)
    if form is None:
        wanted = " or ".join(f"{form.at},{form.prompt},{form.generated}" for form in CSV_FORMS)
        raise InvalidTrace(f"{path}, line 1: the header must name the columns {wanted}, not {','.join(given)!r}")
    yield from _requests(path, ((rows.line_num, row) for row in rows), form, _moment)


def _jsonl(path: Path, lines: Iterable[str]) -> Iterator[Request]:
    yield from _requests(path, _objects(path, lines), JSONL_FORM, lambda text: float(text) / 1000)


_READERS: dict[str, Callable[[Path, Iterable[str]], Iterator[Request]]] = {".csv": _csv, ".jsonl": _jsonl}


def _objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidTrace(f"{path}, line {number}: no JSON: {error}; each line must be one object") from None
        if not isinstance(value, dict):
            raise InvalidTrace(f"{path}, line {number}: must be an object such as {{{_example()}}}, not {value!r:.40}")
        yield number, value


def _example() -> str:
    return f'"{JSONL_FORM.at}": 27482, "{JSONL_FORM.prompt}": 6955, "{JSONL_FORM.generated}": 52'


def _requests(
    path: Path, rows: Iterable[tuple[int, Mapping[str, object]]], form: Columns, moment: Callable[[str], float]
) -> Iterator[Request]:
    for line, row in rows:
        where = f"{path}, line {line}: "
        at = _field(where + form.at, row.get(form.at), moment, "a time")
        prompt = _field(where + form.prompt, row.get(form.prompt), _tokens, "a whole number of tokens")
        generated = _field(where + form.generated, row.get(form.generated), _tokens, "a whole number of tokens")
        if prompt + generated:  # BurstGPT keeps requests that failed: they asked for nothing
            yield Request(at, max(1, prompt), max(1, generated))


def _field(where: str, given: object, read: Callable[[str], Value], wanted: str) -> Value:
    try:
        return read(str(given))
    except ValueError:
        raise InvalidTrace(f"{where} must be {wanted}, not {given!r}") from None


def _tokens(text: str) -> int:
    number = float(text)
    if number < 0 or number != int(number):
        raise ValueError(text)
    return int(number)


def _moment(text: str) -> float:
    """Seconds: of a date, of which Azure writes seven digits after the point, or of a plain number."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    day, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    parsed = datetime.fromisoformat(day + rest[len(digits) :])
    return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp() + float(f"0.{digits or 0}")


def _ordered(path: Path, requests: Iterable[Request]) -> Iterator[Request]:
    """Times from the first request on. A trace that jumps back by more than its own blur is no recording."""
    start = before = None
    for request in requests:
        start = request.at if start is None else start
        if before is not None and request.at < before - 1.0:
            late = f"a request at {request.at - start:.3f} s stands after one at {before - start:.3f} s"
            raise InvalidTrace(f"{path}: {late}; sort the lines by time")
        before = max(request.at, before or request.at)
        yield request._replace(at=before - start)


def _cut(requests: Iterable[Request], begin: float, seconds: float | None) -> Iterator[Request]:
    end = None if seconds is None else begin + seconds
    for request in requests:
        if end is not None and request.at >= end:
            return
        if request.at >= begin:
            yield request._replace(at=request.at - begin)
