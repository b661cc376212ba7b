"""Prometheus' text as series and their values, in the one form in which our server writes it.

A thousand texts a second are read where 500 deployments have four pods each. What stands before the value is the same
in all of them, so it is taken apart once; a whole parser takes 1.5 ms for a text.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlencode

LABEL = re.compile(r'(\w+)="([^"]*)"')
KNOWN = 4096  # series that are remembered; a server has 500, and all have the same


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    labels: Mapping[str, str]


def asking(names: Iterable[str]) -> str:
    """The query for which a server leaves out all other series. One that does not know it tells everything."""
    return urlencode([("name[]", name) for name in names])


def lines(text: str) -> list[tuple[Series, str]]:
    """Every line with a value, which is nothing but text here; lines in any other form are left out."""
    found = []
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        head, _, value = line.rpartition(" ")
        if series := _series(head):
            found.append((series, value))
    return found


@lru_cache(maxsize=KNOWN)
def _series(head: str) -> Series | None:
    name, _, labels = head.partition("{")
    if not name.isidentifier() or (labels and labels.find("}") != len(labels) - 1) or (head and head[-1] == "{"):
        return None
    return Series(name, dict(LABEL.findall(labels)))
