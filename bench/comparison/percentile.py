"""One way to rank latencies, for every program here."""

from collections.abc import Sequence


def milliseconds(seconds: Sequence[float], percent: int) -> float | None:
    """Nearest rank; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(1000 * ordered[max(0, -(-percent * len(ordered) // 100) - 1)], 4)
