"""A load test as a picture: when first tokens came, how the waits are spread, and what was answered each second."""

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace_server.client.summary import LoadSummary

KINDS = (".png", ".html")


def save_plot(summary: LoadSummary, path: Path) -> None:
    """As .png, or as .html with the numbers beside it, in one file. Raises ImportError without matplotlib, OSError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second, and servers do not have it

    figure = Figure(figsize=(10, 9), layout="constrained")
    over_time, spread, answered = figure.subplots(3, 1)
    _draw_over_time(over_time, summary)
    _draw_spread(spread, summary)
    _draw_answered(answered, summary)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    if path.suffix == ".png":
        path.write_bytes(picture.getvalue())
        return
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in summary.row("load").items()
    )
    image = base64.b64encode(picture.getvalue()).decode()
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><title>headrace load</title><h1>headrace load</h1>'
        f'<img src="data:image/png;base64,{image}" style="max-width:100%"><table>{rows}</table>\n'
    )


def _draw_over_time(axes: Any, summary: LoadSummary) -> None:
    first = [(each.due, each.ttft) for each in summary.outcomes if each.ttft is not None]
    failed = [each.due for each in summary.outcomes if each.failure is not None]
    axes.plot([due for due, _ in first], [ttft for _, ttft in first], ".", markersize=4, label="first token")
    axes.plot(failed, [0.0] * len(failed), "rx", label="failed")
    axes.set(xlabel="due, seconds since the start", ylabel="seconds to the first token")
    axes.legend()


def _draw_spread(axes: Any, summary: LoadSummary) -> None:
    outcomes = [each for each in summary.outcomes if each.failure is None]
    lines: dict[str, Sequence[float]] = {
        "queue wait": [each.queue_wait for each in outcomes if each.queue_wait is not None],
        "first token": [each.ttft for each in outcomes if each.ttft is not None],
        "between tokens": [gap for each in outcomes for gap in each.gaps],
        "whole answer": [each.duration for each in outcomes],
    }
    for name, values in lines.items():
        if values:
            shares = [(place + 1) / len(values) for place in range(len(values))]
            axes.plot(sorted(max(value, 1e-4) for value in values), shares, label=name)
    axes.set(xlabel="seconds", ylabel="share", xscale="log")
    axes.legend()


def _draw_answered(axes: Any, summary: LoadSummary) -> None:
    ends = Counter(int(each.due + each.duration) for each in summary.outcomes if each.failure is None)
    seconds = range(max(ends, default=0) + 1)
    axes.step(seconds, [ends[second] for second in seconds], where="post")
    axes.set(xlabel="seconds since the start", ylabel="answers a second", ylim=(0, None))
