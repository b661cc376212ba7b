"""How many prompt tokens may join a step: so many that nobody's next token takes much longer than usual."""

SLOWER = 2.0  # a step with prefill may take this many times a step without; callers bear three times
SMALLEST = 16  # tokens; a prompt always goes on
UNMEASURED = 256  # tokens, until both kinds of steps were seen
MEMORY = 0.1  # share of the newest step in the averages


class PrefillPace:
    """Averages of measured steps. Pure: the seconds are told."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode: float | None = None  # seconds of a step that only decodes
        self._per_token: float | None = None  # seconds that each prompt token adds

    def observe(self, decoding: int, filling: int, seconds: float) -> None:
        """A step of so many decoding sequences and prompt tokens took so long."""
        if not filling:
            self._decode = _moved(self._decode, seconds)
        elif decoding and self._decode is not None:
            self._per_token = _moved(self._per_token, max(0.0, seconds - self._decode) / filling)
        elif not decoding:
            self._per_token = _moved(self._per_token, seconds / filling)

    def prefill_tokens(self, decoding: int, budget: int) -> int:
        """At most `budget`; all of it when nobody decodes."""
        if not decoding:
            return budget
        return min(budget, max(SMALLEST, self._affordable()))

    def _affordable(self) -> int:
        if self._decode is None or self._per_token is None:
            return UNMEASURED
        if self._per_token <= 0:
            return self._max_tokens
        return int((SLOWER - 1) * self._decode / self._per_token)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + MEMORY * (value - average)
