"""What was measured against what is allowed: pure, one check for each promise."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from headrace_server.evaluation import BadFile

Least0 = Annotated[float, Field(ge=0)]


class Name(StrEnum):
    """Of a check, as it stands in the report."""

    QUALITY = "Quality"
    STABLE_ANSWERS = "StableAnswers"
    STABLE_MEMORY = "StableMemory"
    PAGES_RETURNED = "PagesReturned"
    PEAK_ANSWERS = "PeakAnswers"
    PEAK_PUSHBACK = "PeakPushback"
    PEAK_WAIT = "PeakWait"
    CAPACITY_KEPT = "CapacityKept"


@dataclass(frozen=True, slots=True)
class Limits:
    """A file of them is a JSON object of some of these fields."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    error_share: Least0 = 0.0  # of the requests of the steady load that may fail, refusals included
    memory_growth: Least0 = 0.05  # of the resident memory, from the middle third of the steady load to the last
    peak_wait_p99: Least0 = 60.0  # seconds in the queue, of those that are answered
    capacity_share: Least0 = 0.9  # of the baseline's tokens a second, at least


@dataclass(frozen=True, slots=True)
class Steady:
    """Minutes of a load that the server carries."""

    seconds: float
    sent: int
    failed: int
    memory_middle: float  # bytes, median of the middle third
    memory_last: float  # likewise, of the last
    pages_total: int | None  # of the KV cache; None: a model that embeds has none
    pages_free: int | None  # once nobody asks any more


@dataclass(frozen=True, slots=True)
class Peak:
    """A load that the server cannot carry."""

    rate: float  # requests a second
    sent: int
    refused: int  # RESOURCE_EXHAUSTED
    refused_without_pushback: int
    errors: int  # anything else than an answer or a refusal
    wait_p99: float | None  # seconds; None: nobody was answered


@dataclass(frozen=True, slots=True)
class Measured:
    worse: tuple[str, ...]  # figures of quality beyond their thresholds
    tokens_per_second: float  # of a full server: of answers, or of texts that are embedded
    steady: Steady
    peak: Peak


@dataclass(frozen=True, slots=True)
class Check:
    name: Name
    passed: bool
    why: str


def checked(measured: Measured, limits: Limits, baseline: float | None) -> tuple[Check, ...]:
    """`baseline`: tokens a second of an earlier release on this machine; None: nothing to compare with."""
    steady, peak = measured.steady, measured.peak
    share = steady.failed / steady.sent if steady.sent else 1.0
    growth = steady.memory_last / steady.memory_middle - 1
    found = [
        Check(Name.QUALITY, not measured.worse, "; ".join(measured.worse) or "within the thresholds"),
        Check(
            Name.STABLE_ANSWERS,
            share <= limits.error_share,
            f"{steady.failed} of {steady.sent} requests failed in {steady.seconds:.0f} s",
        ),
        Check(Name.STABLE_MEMORY, growth <= limits.memory_growth, f"memory grew by {growth:.2%}"),
        *_pages(steady),
        Check(
            Name.PEAK_ANSWERS,
            peak.errors == 0 and peak.wait_p99 is not None,
            f"{peak.errors} of {peak.sent} requests failed at {peak.rate:.3g}/s, {peak.refused} were refused",
        ),
        Check(
            Name.PEAK_PUSHBACK,
            peak.refused_without_pushback == 0,
            f"{peak.refused_without_pushback} refusals did not say when to come back",
        ),
        Check(
            Name.PEAK_WAIT,
            peak.wait_p99 is not None and peak.wait_p99 <= limits.peak_wait_p99,
            "nobody was answered" if peak.wait_p99 is None else f"99 of 100 waited at most {peak.wait_p99:.3g} s",
        ),
    ]
    if baseline is not None:
        kept = measured.tokens_per_second / baseline
        told = f"{measured.tokens_per_second:.4g} tokens/s are {kept:.2f} of the baseline's"
        found.append(Check(Name.CAPACITY_KEPT, kept >= limits.capacity_share, told))
    return tuple(found)


def _pages(steady: Steady) -> tuple[Check, ...]:
    if steady.pages_total is None:
        return ()
    told = f"{steady.pages_free} of {steady.pages_total} KV pages are free when nobody asks"
    return (Check(Name.PAGES_RETURNED, steady.pages_free == steady.pages_total, told),)


def read_limits(path: Path) -> Limits:
    """Raises BadFile, OSError."""
    try:
        return TypeAdapter(Limits).validate_json(path.read_bytes())
    except ValidationError as refused:
        first = refused.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise BadFile(f"{path}: {field}: {first['msg']}") from refused
