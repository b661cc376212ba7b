"""What may leave in a bug report. Known places are emptied, then every text is searched for what looks like a secret.

Emptied: env values, names and keys of secrets, annotations that are not Headrace's, values of fields and options that
are named like a credential, hosts of private registries. A UID becomes a number of its own, the same everywhere: a
server takes its pod's UID as the password of its drain call.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

REDACTED = "[redacted]"
_WORDS = r"(?:token|passw(?:or)?d|secret|credentials?|api[-_]?key|access[-_]?key|private[-_]?key|authorization)"
_NAME = re.compile(rf"{_WORDS}$", re.IGNORECASE)
_SECRET = re.compile("secret", re.IGNORECASE)
_PUBLIC = {"docker.io", "index.docker.io", "ghcr.io", "quay.io", "nvcr.io", "registry.k8s.io"}
_HOST = re.compile(r"^(?:oci://|docker-pullable://)?([^/@]+[.:][^/@]*)/")
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE)
_LONG = re.compile(r"(?<!sha256:)(?<![\w+/-])[\w+/-]{32,}={0,2}")
_TURN = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[a-z0-9])|(?<=[0-9])(?=[A-Za-z])")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), REDACTED),
    (re.compile(r"(\w://)[^/\s@]+@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(rf"({_WORDS}[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"([?&](?:sig|[\w-]*signature)=)[^\s&\"']+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"(\bsecrets? [\"'])[^\"']+([\"'])", re.IGNORECASE), rf"\1{REDACTED}\2"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REDACTED),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|nvapi-|npm_)[\w-]{10,}"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"), REDACTED),
    (re.compile(r"(?<!sha256:)\b[0-9a-f]{32,}\b", re.IGNORECASE), REDACTED),
)
MANY_TURNS = 10  # from lower case to upper case or digits and back: a random text has them, a model's name has not
SHORTEST = 6  # characters of a known value that is looked for in other texts, too; shorter ones are parts of words


class Redaction:
    """Knows what one set of documents holds, so that it is found again in logs and messages."""

    def __init__(self, documents: Iterable[Any]) -> None:
        known = {text for document in documents for text in _sensitive(document) if len(text) >= SHORTEST}
        longest_first = sorted(known, key=lambda text: (-len(text), text))
        self._known = (
            re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)") if known else None
        )
        self._uids: dict[str, str] = {}

    def document(self, value: Any, name: str = "") -> Any:
        """A copy of plain JSON. `name`: the field that holds it."""
        if isinstance(value, dict):
            return {self.text(key): self._field(key, below) for key, below in value.items()}
        if isinstance(value, list):
            return self._items(value, name)
        if not isinstance(value, str):
            return value
        return REDACTED if _NAME.search(name) else self.text(value)

    def text(self, text: str) -> str:
        """Free text: a message, a log."""
        text = _UUID.sub(self._number, text)
        if self._known:
            text = self._known.sub(REDACTED, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return _LONG.sub(_unless_readable, text)

    def _field(self, key: str, value: Any) -> Any:
        if key == "annotations" and isinstance(value, dict):
            return {self.text(name): self._annotation(name, text) for name, text in value.items()}
        if key == "env" and isinstance(value, list):
            return [self._variable(variable) for variable in value]
        return _emptied(value) if _SECRET.search(key) else self.document(value, key)

    def _annotation(self, name: str, value: str) -> str:
        return self.text(value) if name.startswith("headrace.dev/") else REDACTED

    def _variable(self, variable: Any) -> Any:
        if not isinstance(variable, dict):
            return self.document(variable, "env")
        changed = {key: REDACTED if key == "value" else self._field(key, below) for key, below in variable.items()}
        return {**changed, "name": variable.get("name")}

    def _items(self, items: list[Any], name: str) -> list[Any]:
        """Of a command line, what follows an option that is named like a credential goes, too."""
        before = [None, *items]
        return [
            REDACTED if isinstance(item, str) and _is_option(before[place]) else self.document(item, name)
            for place, item in enumerate(items)
        ]

    def _number(self, found: re.Match[str]) -> str:
        return self._uids.setdefault(found[0].lower(), f"uid-{len(self._uids) + 1}")


def _is_option(word: Any) -> bool:
    return isinstance(word, str) and word.startswith("-") and bool(_NAME.search(word))


def _unless_readable(found: re.Match[str]) -> str:
    return REDACTED if len(_TURN.findall(found[0])) >= MANY_TURNS else found[0]


def _emptied(value: Any) -> Any:
    """The same shape without a text. In managedFields, items of lists and sets are keys."""
    if isinstance(value, dict):
        return {REDACTED if key.startswith(("k:", "v:")) else key: _emptied(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_emptied(item) for item in value]
    return REDACTED if isinstance(value, str) else value


def _sensitive(value: Any, name: str = "") -> Iterator[str]:
    """Values that must not show up anywhere: of env, of secrets, and hosts of private registries."""
    if isinstance(value, dict):
        if name == "env" and "name" in value and isinstance(value.get("value"), str):
            yield value["value"]
        for key, below in value.items():
            yield from _texts(below) if _SECRET.search(key) else _sensitive(below, key)
    elif isinstance(value, list):
        for item in value:
            yield from _sensitive(item, name)
    elif isinstance(value, str) and (host := _HOST.match(value)) and name in {"image", "imageID", "source"}:
        yield from {host[1]} - _PUBLIC


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
