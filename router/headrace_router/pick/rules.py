"""Which of several models a request goes to: the first rule that fits, looked at before any replica is.

Only what the request itself says counts, and only the beginning of its body is there to look at.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT = "default"  # the name of no rule: none fitted
FALLBACK = "fallback"  # likewise: another model was unsure


@dataclass(frozen=True, slots=True)
class Traits:
    """Of a request."""

    headers: Mapping[str, str]  # names in lower case; metadata of gRPC likewise
    tenant: str  # empty: it names none
    request_bytes: int  # of its body, framing apart; of what is there of it, where no length is said
    beginning: bytes  # of its body


@dataclass(frozen=True, slots=True)
class Score:
    """A number that a classifier before the router gave the request."""

    at_least: float
    header: str | None = None
    field: str | None = None  # of a JSON body, in any depth

    def fits(self, traits: Traits) -> bool:
        told = self._told(traits)
        return told is not None and told >= self.at_least

    def _told(self, traits: Traits) -> float | None:
        """None for a score that is missing, or no number."""
        if self.header is not None:
            return _number(traits.headers.get(self.header))
        found = re.search(rb'"%s"\s*:\s*"?([-+.0-9eE]+)' % re.escape((self.field or "").encode()), traits.beginning)
        return _number(found[1].decode()) if found else None


@dataclass(frozen=True, slots=True)
class Rule:
    """Fits a request that meets all of its conditions; those that are None do not count."""

    name: str
    model: str
    header: tuple[str, str] | None = None  # name in lower case, value
    tenant: str | None = None
    request_bytes: int | None = None  # at least
    score: Score | None = None

    def fits(self, traits: Traits) -> bool:
        return (
            (self.header is None or traits.headers.get(self.header[0]) == self.header[1])
            and (self.tenant is None or traits.tenant == self.tenant)
            and (self.request_bytes is None or traits.request_bytes >= self.request_bytes)
            and (self.score is None or self.score.fits(traits))
        )


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another model is asked instead of whose whole answers are less likely than `mean_logprob`, in the mean."""

    origin: str
    to: str
    mean_logprob: float  # nats a token


@dataclass(frozen=True, slots=True)
class Rules:
    rules: Sequence[Rule]
    default: str  # model of requests that no rule fits
    fallback: Fallback | None = None

    def chosen(self, traits: Traits) -> tuple[str, str]:
        """Model, and the name of the rule that named it."""
        rule = next((rule for rule in self.rules if rule.fits(traits)), None)
        return (self.default, DEFAULT) if rule is None else (rule.model, rule.name)

    def needs_length(self) -> bool:
        """Whether some rule asks how long a request is."""
        return any(rule.request_bytes is not None for rule in self.rules)

    def headers(self) -> set[str]:
        """That some rule looks at."""
        named = {rule.header[0] for rule in self.rules if rule.header}
        return named | {rule.score.header for rule in self.rules if rule.score and rule.score.header}


def is_unsure(fallback: Fallback, logprobs: Sequence[float]) -> bool:
    """`logprobs`: of an answer's tokens, in nats. An answer without any says nothing of itself, and is kept."""
    return bool(logprobs) and sum(logprobs) / len(logprobs) < fallback.mean_logprob


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
