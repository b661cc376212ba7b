"""Numbers out of a status, which keeps them as words for people: `120ms`, `418`, `unknown`."""

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import duration


def seconds(text: str | None) -> float | None:
    """Of 120ms or 5s; None of `unknown`, and of what is no duration."""
    if text is None:
        return None
    try:
        return duration(text, "")
    except InvalidSpec:
        return None


def number(text: str | None) -> float | None:
    """None of `unknown`, and of what is no number."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
