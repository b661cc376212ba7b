"""Who is let into a replica's queue, as the server's engine/admission.py and drain_rate.py have it for online requests.

Held to them by tests/contract/test_simulated_door.py. Tenants, deadlines, offline work and --max-waiting-tokens are
left out; so a request's cost is what it takes, where the server only knows what it may take.
"""

from math import exp

MEMORY = 10.0  # seconds in which an old measurement loses two thirds of its weight
ENOUGH = 0.5  # seconds with somebody waiting before the figure is believed
SOONEST, LATEST = 0.1, 60.0  # seconds after which somebody may be asked to come again


class DrainRate:
    """Of the tokens of those who begin, a second, while somebody waits."""

    __slots__ = ("_begun", "_seconds", "_since", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0  # begun, recent ones count more
        self._seconds = 0.0  # in which somebody waited, likewise
        self._begun = 0
        self._since: float | None = None  # when it was seen last that somebody waits

    def seconds(self, tokens: int) -> float | None:
        """Until so many that wait have begun; None before enough was seen: nobody is refused because of a guess."""
        return tokens * self._seconds / self._tokens if self._seconds >= ENOUGH and self._tokens > 0 else None

    def began(self, tokens: int) -> None:
        self._begun += tokens

    def look(self, now: float, *, waiting: bool) -> None:
        if self._since is not None:
            seconds = max(0.0, now - self._since)
            kept = exp(-seconds / MEMORY)
            self._tokens = self._tokens * kept + self._begun
            self._seconds = self._seconds * kept + seconds
        self._begun = 0
        self._since = now if waiting else None


class Door:
    """Of one replica."""

    __slots__ = (
        "_answers",
        "_answers_waiting",
        "_max_requests",
        "_max_wait",
        "_requests",
        "_tokens",
        "_tokens_waiting",
    )

    def __init__(self, max_requests: int, max_wait: float) -> None:
        """`max_wait`: seconds; who would wait longer than half of it is refused."""
        self._max_requests = max_requests
        self._max_wait = max_wait
        self._requests = 0  # that wait
        self._tokens_waiting = 0  # that they cost
        self._answers_waiting = 0  # of them, those to be generated
        self._tokens = DrainRate()
        self._answers = DrainRate()

    def again(self, oldest: float) -> float | None:
        """None lets a newcomer in; otherwise seconds after which to come again. `oldest`: seconds of the first."""
        drain = self._drain_seconds()
        if self._requests < self._max_requests and (drain is None or drain <= self._max_wait / 2):
            return None
        return max(1.0, oldest) if drain is None else min(LATEST, max(SOONEST, drain))

    def came(self, prompt: int, generated: int) -> None:
        """Tokens of one that was let in."""
        self._requests += 1
        self._tokens_waiting += prompt + generated
        self._answers_waiting += generated

    def began(self, prompt: int, generated: int) -> None:
        """One that waited has its first step."""
        self.left(prompt, generated)
        self._tokens.began(prompt + generated)
        self._answers.began(generated)

    def left(self, prompt: int, generated: int) -> None:
        """One hung up while it waited."""
        self._requests -= 1
        self._tokens_waiting -= prompt + generated
        self._answers_waiting -= generated

    def look(self, now: float) -> None:
        """To be called with every step, after those who begin with it."""
        self._tokens.look(now, waiting=self._requests > 0)
        self._answers.look(now, waiting=self._requests > 0)

    def _drain_seconds(self) -> float | None:
        """The slower of two figures: the cheap by one of them begin first."""
        if not self._requests:
            return 0.0
        tokens, answers = self._tokens.seconds(self._tokens_waiting), self._answers.seconds(self._answers_waiting)
        return max((seconds for seconds in (tokens, answers) if seconds is not None), default=None)
