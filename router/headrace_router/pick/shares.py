"""How often each of several takes its turn, by shares: exact over any stretch of turns, and without chance.

The smooth weighted round robin of nginx: who is furthest behind its share is next.
"""

from collections.abc import Mapping, Sequence

from headrace_router.values import Endpoint

REST = ""  # of the revisions that no share is given for


class Turns:
    def __init__(self) -> None:
        self._credit: dict[str, float] = {}  # turns that each is behind its share; negative: ahead

    def next(self, shares: Mapping[str, float]) -> str:
        """`shares`: of all who can take a turn now, at least one above 0; who cannot is left out and owed nothing."""
        total = sum(shares.values())
        self._credit = {name: self._credit.get(name, 0.0) + share / total for name, share in shares.items()}
        chosen = max(self._credit, key=lambda name: (self._credit[name], name))
        self._credit[chosen] -= 1
        return chosen


def revision_shares(shares: Mapping[str, float], usable: Sequence[Endpoint]) -> dict[str, float]:
    """Of the revisions with a usable replica; REST for all that have no share of their own.

    A share of nothing gives nothing, unless nobody else is there: a request is never refused for a share.
    """
    present = {endpoint.revision if endpoint.revision in shares else REST for endpoint in usable}
    rest = max(0.0, 1.0 - sum(shares.values()))
    found = {name: shares.get(name, rest) for name in present}
    wanted = {name: share for name, share in found.items() if share > 0}
    return wanted or dict.fromkeys(found, 1.0)


def of_revision(name: str, shares: Mapping[str, float], usable: Sequence[Endpoint]) -> list[Endpoint]:
    return [one for one in usable if (one.revision if one.revision in shares else REST) == name]
