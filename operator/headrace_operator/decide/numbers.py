"""How a measured number is told: short enough to read, and exactly the number that was decided on."""


def rounded(value: float) -> float:
    """To four significant digits: finer than any measurement here."""
    return float("%.4g" % value)  # noqa: UP031 - half the time of an f-string, and each look rounds a dozen numbers


def rounded_if_known(value: float | None) -> float | None:
    return None if value is None else float("%.4g" % value)  # noqa: UP031 - as above


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def text(value: float) -> str:
    """Decimal, the shortest that reads back as the same number; `inf` when without bound."""
    shortest = f"{value:.15g}"
    return shortest if float(shortest) == value else repr(value)
