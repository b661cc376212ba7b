"""Prometheus' text as heads (a series with its labels) and values, in the one form in which our server writes them.

A thousand texts a second are read where 500 deployments have four pods each. A whole parser takes 1.5 ms for one.
The heads are the same in all of them, so whoever reads them remembers what each of them means.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

LINE = re.compile(r"\n(headrace_\S+) (\S+)(?=\n|$)")  # begins with plain text, for which `re` searches at once
LABEL = re.compile(r'(\w+)="([^"]*)"')
REMEMBERED = 4096  # heads: a server has 500, and all have the same
Line = tuple[str, str]  # head and value


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    labels: Mapping[str, str]


def asking(names: Iterable[str]) -> str:
    """The query for which a server leaves out all other series. One that does not know it tells everything."""
    return urlencode([("name[]", name) for name in names])


def lines(text: str) -> list[Line]:
    """Every line of ours with a value; the value is nothing but text here."""
    return LINE.findall(f"\n{text}")


def series(head: str) -> Series | None:
    """None for what is no head."""
    name, brace, labels = head.partition("{")
    if brace and labels.find("}") != len(labels) - 1:
        return None
    return Series(name, dict(LABEL.findall(labels)))
