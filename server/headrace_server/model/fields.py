"""A JSON object in a checkpoint, with errors that name the file, the field and what belongs there."""

import json
from pathlib import Path
from typing import Any

from headrace_server.errors import ModelRefused


class Fields:
    """A field that is null counts as missing, unless asked for by `is_null`. Every method raises ModelRefused."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values

    @classmethod
    def read(cls, path: Path) -> "Fields":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise ModelRefused(f"{path} is missing; a checkpoint directory holds it beside *.safetensors") from missing
        except (OSError, ValueError) as broken:
            raise ModelRefused(f"{path} cannot be read as JSON: {broken}") from broken
        if not isinstance(values, dict):
            raise ModelRefused(f"{path} holds no JSON object")
        return cls(path, values)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __len__(self) -> int:
        return len(self._values)

    def raw(self, name: str) -> Any:
        """Whatever the file says; None when it is missing."""
        return self._values.get(name)

    def is_null(self, name: str) -> bool:
        return name in self._values and self._values[name] is None

    def count(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self._value(name, default)
        if type(value) is not int or value < least:
            raise self.refusal(name, f"is {value!r}; must be a whole number of at least {least}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if type(value) not in (int, float) or value <= 0:
            raise self.refusal(name, f"is {value!r}; must be a number above 0")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, f"is {value!r}; must be true or false")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.refusal(name, f"is {value!r}; must be a text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._value(name, default=[])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.refusal(name, f"is {value!r}; must be a list of texts")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One, or a list; () when missing."""
        value = self._value(name, default=[])
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise self.refusal(name, f"is {value!r}; must be a token id or a list of them")
        return tuple(ids)

    def part(self, name: str) -> "Fields":
        """The object in a field; its errors name the field's own parts."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self.refusal(name, f"is {value!r}; must be an object")
        return Fields(self._path, value)

    def refusal(self, name: str, message: str) -> ModelRefused:
        return ModelRefused(f"{self._path}: {name} {message}")

    def _value(self, name: str, default: Any = None) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.refusal(name, "is missing")
        return value
