"""Reads the fields of a spec one by one. Whoever reads a wrong one raises InvalidSpec with its whole name.

A `default` stands in for a field that an older schema does not know. The newer schema fills in the same one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from headrace_operator.errors import InvalidSpec

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
PERCENT = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,2})?)%")
NUMBER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})?")
ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a spec."""

    values: Mapping[str, Any]
    where: str  # such as spec.autoscaling

    def field(self, key: str) -> str:
        return f"{self.where}.{key}"

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def part(self, key: str) -> "Section":
        return _section(self.values.get(key, {}), self.field(key))

    def parts(self, key: str) -> list["Section"]:
        """Of a list of objects."""
        return [_section(item, f"{self.field(key)}[{index}]") for index, item in enumerate(self._list(key))]

    def whole(self, key: str, *, least: int = 1, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidSpec(self.field(key), f"must be a whole number of at least {least}, not {value!r}")
        return value

    def whole_if_given(self, key: str, *, least: int = 1) -> int | None:
        return self.whole(key, least=least) if self.has(key) else None

    def one_of(self, key: str, allowed: Iterable[str], default: str | None = None) -> str:
        value, words = self.values.get(key, default), tuple(allowed)
        if value not in words:
            raise InvalidSpec(self.field(key), f"must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    def flag(self, key: str) -> bool:
        """False when it is not given."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise InvalidSpec(self.field(key), f"must be true or false, not {value!r}")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise InvalidSpec(self.field(key), f"must be text, not {value!r}")
        return value

    def text_if_given(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Of a list of words."""
        values = tuple(self._list(key))
        if not all(isinstance(value, str) for value in values):
            raise InvalidSpec(self.field(key), f"must be a list of words, not {list(values)!r}")
        return values

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """Of a map from text to text, sorted."""
        values = self.part(key).values
        if not all(isinstance(value, str) for value in values.values()):
            raise InvalidSpec(self.field(key), "must have text for values; put numbers and true in quotes")
        return tuple(sorted(values.items()))

    def duration(self, key: str, default: float | None = None) -> float:
        """Seconds."""
        return default if default is not None and not self.has(key) else duration(self.values.get(key), self.field(key))

    def positive_duration(self, key: str) -> float:
        """Seconds, above zero."""
        seconds = self.duration(key)
        if seconds <= 0:
            raise InvalidSpec(self.field(key), f"must be longer than 0s, not {self.values[key]!r}")
        return seconds

    def percent(self, key: str, *, least: int = 1, most: int = 100, default: float | None = None) -> float:
        """A ratio: 0.7 of `70%`."""
        if default is not None and not self.has(key):
            return default
        return percent(self.values.get(key), self.field(key), least, most)

    def number(self, key: str, default: float) -> float:
        """A decimal number in quotes, not negative."""
        text = self.values.get(key)
        if text is None:
            return default
        if not isinstance(text, str) or not NUMBER.fullmatch(text):
            raise InvalidSpec(self.field(key), f"must be a number in quotes such as '0.05', not {text!r}")
        return float(text)

    def cron(self, key: str) -> str:
        """An expression that comes true at some time."""
        text = self.text(key)
        try:
            comes_true = _comes_true(text)
        except CronSimError as error:
            why = f"must be cron with five fields such as '0 8 * * 1-5', not {text!r}: {str(error).lower()}"
            raise InvalidSpec(self.field(key), why) from error
        if not comes_true:
            raise InvalidSpec(self.field(key), f"must come true at some time; {text!r} never does")
        return text

    def time_zone(self, key: str, default: str) -> str:
        name = str(self.values.get(key, default))
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: `Europe` is a folder of zones
            why = f"must be an IANA time zone such as Europe/Berlin or UTC, not {name!r}"
            raise InvalidSpec(self.field(key), why) from error
        return name

    def _list(self, key: str) -> list[Any]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise InvalidSpec(self.field(key), f"must be a list, not {value!r}")
        return value


@lru_cache(maxsize=1024)  # every look at an object reads its schedules again, and 50 years take a while to search
def _comes_true(expression: str) -> bool:
    """Within 50 years. Raises CronSimError."""
    return next(CronSim(expression, ANY_DAY), None) is not None


def _section(value: object, where: str) -> Section:
    if not isinstance(value, Mapping):
        raise InvalidSpec(where, f"must be an object with fields, not {value!r}")
    return Section(value, where)


def duration(text: object, field: str) -> float:
    """Seconds of `500ms`, `10s`, `1m30s`. Raises InvalidSpec."""
    parts = DURATION.findall(str(text))
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidSpec(field, f"must be a duration like 500ms, 10s or 5m, not {text!r}")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def percent(text: object, field: str, least: int = 1, most: int = 100) -> float:
    """0.7 of `70%`. Raises InvalidSpec."""
    match = PERCENT.fullmatch(str(text))
    if not match or not least <= float(match[1]) <= most:
        raise InvalidSpec(field, f"must be a percentage between {least}% and {most}%, not {text!r}")
    return float(match[1]) / 100
