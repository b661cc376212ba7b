"""What a manifest may say of the server's caches: how much they keep, and for how long. Each is off until asked for."""

from dataclasses import dataclass

from headrace_operator.fields import Section


@dataclass(frozen=True, slots=True)
class Caches:
    response_mib: int | None = None  # MiB of whole answers
    embedding_mib: int | None = None  # MiB of texts' vectors
    ttl: float | None = None  # seconds; None = the server's own default


def caches(given: Section) -> Caches:
    """Raises InvalidSpec."""
    ttl = given.positive_duration("ttl") if given.has("ttl") else None
    return Caches(given.whole_if_given("responseMiB"), given.whole_if_given("embeddingMiB"), ttl)
