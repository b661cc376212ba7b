"""What an evaluation harness found for two models, compared: how much worse is each score, and is that too much?"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

NO_SCORES = {"name", "alias", "sample_len"}  # beside the scores in lm-eval's results


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task."""

    task: str
    metric: str  # with the harness's filter, if it is not "none": exact_match,strict
    value: float
    higher_is_better: bool | None  # None: the harness does not say, so nobody can judge it


@dataclass(frozen=True, slots=True)
class Compared:
    task: str
    metric: str
    score: float
    base_score: float
    drop: float | None  # 0.02: two points worse, or where less is better 2 % more; below 0: better; None: not judged


def read_scores(results: Mapping[str, Any]) -> tuple[Score, ...]:
    """From the JSON that lm-eval writes. Raises KeyError, TypeError, ValueError or AttributeError where it is none."""
    better = results.get("higher_is_better", {})
    return tuple(
        Score(task, metric.removesuffix(",none"), float(value), better.get(task, {}).get(metric.partition(",")[0]))
        for task, found in results["results"].items()
        for metric, value in found.items()
        if metric not in NO_SCORES and "_stderr," not in metric
    )


def compared(ours: Iterable[Score], theirs: Iterable[Score]) -> tuple[Compared, ...]:
    """Raises ValueError when both did not answer the same."""
    mine, base = ({(score.task, score.metric): score for score in side} for side in (ours, theirs))
    if mine.keys() != base.keys():
        raise ValueError(f"only one of both models has a score for {sorted(mine.keys() ^ base.keys())[0]}")
    return tuple(
        Compared(*name, score.value, base[name].value, _drop(score, base[name])) for name, score in mine.items()
    )


def _drop(ours: Score, base: Score) -> float | None:
    if ours.higher_is_better is None:
        return None
    if ours.higher_is_better:
        return base.value - ours.value
    return ours.value / base.value - 1 if base.value else ours.value


def regressions(found: Iterable[Compared], most: float) -> list[str]:
    """A sentence for each score that fell by more than `most`. What is no number did, too."""
    return [
        f"{one.task} {one.metric} is {one.score:.5g}, was {one.base_score:.5g}: a drop of at most {most:g} is allowed"
        for one in found
        if one.drop is not None and not one.drop <= most
    ]


def as_json(found: Iterable[Compared]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


def as_lines(found: Iterable[Compared]) -> list[str]:
    return [f"{f'{one.task} {one.metric}':<40} {one.score:.6g} (was {one.base_score:.6g})" for one in found]
