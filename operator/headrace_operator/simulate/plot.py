"""Replicas and queues over time as a picture: SVG of our own, alone or in a page; PNG where matplotlib is installed."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from headrace_operator.errors import OperatorError
from headrace_operator.simulate.comparison import Comparison, Run
from headrace_operator.simulate.world import Moment

WIDTH, HEIGHT, LEFT, GAP = 900, 220, 60, 40  # pixels of one chart
POINTS = 600  # of a line
COLOURS = (
    "#0b6e4f", "#c1292e", "#235789", "#f1a208", "#6a4c93", "#00a6a6", "#8d6a9f", "#b56576", "#7f7f7f", "#556b2f",
    "#d2691e", "#111111",
)  # fmt: skip
CHARTS: tuple[tuple[str, Callable[[Moment], float]], ...] = (
    ("ready replicas", lambda moment: moment.ready),
    ("waiting requests", lambda moment: moment.waiting),
)


class InvalidPlot(OperatorError):
    """The picture cannot be made: names the remedy."""


def check(path: Path) -> None:
    """Raises InvalidPlot before the work, not after it."""
    if path.suffix not in {".html", ".svg", ".png"}:
        raise InvalidPlot(f"--plot {path}: must end in .html, .svg or .png")
    if path.suffix == ".png":
        try:
            import matplotlib  # noqa: F401, PLC0415
        except ImportError:
            raise InvalidPlot(f"--plot {path}: PNG needs matplotlib; install it, or ask for .svg or .html") from None


def write(path: Path, comparison: Comparison, runs: Sequence[Run]) -> None:
    if path.suffix == ".png":
        _png(path, comparison, runs)
        return
    picture = svg(comparison, runs)
    page = f"<!doctype html><meta charset=utf-8><title>headrace simulate</title>{picture}\n"
    path.write_text(page if path.suffix == ".html" else picture + "\n")


def svg(comparison: Comparison, runs: Sequence[Run]) -> str:
    end = comparison.requests[-1].at or 1.0
    parts, top = [], GAP
    for title, value in CHARTS:
        parts.append(_chart(title, value, runs, end, top))
        top += HEIGHT + GAP
    parts += [_legend(index, run, top + 20 * (index // 3)) for index, run in enumerate(runs)]
    height = top + 20 * (len(runs) // 3 + 1)
    size = f'width="{LEFT + WIDTH + 20}" height="{height}" font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


def _chart(title: str, value: Callable[[Moment], float], runs: Sequence[Run], end: float, top: int) -> str:
    most = max((value(moment) for run in runs for moment in run.moments), default=0.0) or 1.0

    def place(moment: Moment) -> str:
        return f"{LEFT + WIDTH * moment.at / end:.1f},{top + HEIGHT * (1 - value(moment) / most):.1f}"

    lines = []
    for index, run in enumerate(runs):
        points = " ".join(map(place, _thinned(run.moments, value)))
        colour = COLOURS[index % len(COLOURS)]
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.3" points="{points}"/>')
    frame = f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>'
    scale = f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.0f}</text>'
    ends = f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 14}" text-anchor="end">{end / 60:.0f} min</text>'
    return f'{frame}{scale}{ends}<text x="{LEFT}" y="{top - 8}">{escape(title)}</text>{"".join(lines)}'


def _thinned(moments: Sequence[Moment], value: Callable[[Moment], float]) -> list[Moment]:
    """Of each of many spans the highest moment: a peak must stay to be seen."""
    edges = [round(index * len(moments) / POINTS) for index in range(POINTS + 1)]
    return [max(moments[begin:end], key=value) for begin, end in pairwise(edges) if begin < end]


def _legend(index: int, run: Run, top: int) -> str:
    left = LEFT + (index % 3) * WIDTH // 3
    text = f"{run.name}: {run.outcome.slo_miss_share:.2%} missed, {run.outcome.replica_hours:.1f} h"
    colour = COLOURS[index % len(COLOURS)]
    return (
        f'<rect x="{left}" y="{top - 9}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{left + 15}" y="{top}">{escape(text)}</text>'
    )


def _png(path: Path, comparison: Comparison, runs: Sequence[Run]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - checked before

    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (title, value) in zip(figure.subplots(len(CHARTS), 1, sharex=True), CHARTS, strict=True):
        for index, run in enumerate(runs):
            shown = _thinned(run.moments, value)
            label = f"{run.name}: {run.outcome.slo_miss_share:.2%} missed, {run.outcome.replica_hours:.1f} h"
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(
                [moment.at / 60 for moment in shown], [value(moment) for moment in shown], color=colour, label=label
            )
        axes.set_ylabel(title)
    axes.set_xlabel("minutes")
    axes.set_xlim(0, comparison.requests[-1].at / 60)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=90)
