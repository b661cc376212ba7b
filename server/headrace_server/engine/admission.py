"""Who is let into the queue, and when somebody who is not should come again. Pure: the caller brings clock and queue.

A request waits only if its wait can be bounded: the queue holds no more requests and tokens than it may, and, once it
was seen how fast it empties, no more than empties in half of the longest wait (docs/scheduling.md says why half).
Offline work has bounds of its own, half of them, so that neither takes the other's place. Three quarters of the room
are for whoever comes; the last one is kept for tenants that have less than their share inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_server.config import EngineConfig
from headrace_server.engine.allowance import Allowances
from headrace_server.engine.queue import kind, longest_wait
from headrace_server.engine.sequence import cost_of
from headrace_server.errors import DeadlineExceeded, Overloaded, Refusal
from headrace_server.request import Priority, Request

OFFLINE_PART, GREEDY_PART = 0.5, 0.75
SOONEST, LATEST = 0.1, 60.0  # seconds after which somebody may be asked to come again


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits, by class."""

    requests: Mapping[Priority, int]
    tokens: Mapping[Priority, int]  # that they may cost
    tokens_per_second: Mapping[Priority, float | None]  # that leave the queue, its whole kind; None = not seen yet
    oldest: float  # seconds that the first one has waited
    answers: Mapping[Priority, int]  # of the tokens, those that may be generated
    answers_per_second: Mapping[Priority, float | None]  # likewise

    def drain_seconds(self, priority: Priority) -> float | None:
        """Until all of its kind who wait have begun; None = not seen yet."""
        return self._seconds(priority, kind(priority))

    def wait(self, priority: Priority) -> float | None:
        """Seconds that a newcomer of this class will wait, as far as can be seen: behind its own class and those of its
        kind that are more urgent."""
        ahead = kind(priority)
        return self._seconds(priority, ahead[: ahead.index(priority) + 1])

    def _seconds(self, priority: Priority, classes: tuple[Priority, ...]) -> float | None:
        """The slower of two figures: long prompts are many tokens in few steps, and long answers few in many, so when
        those of one sort have begun and the other is left, one of the two rates was seen too high."""
        tokens, answers = (sum(of[each] for each in classes) for of in (self.tokens, self.answers))
        if not tokens:
            return 0.0
        measured = ((tokens, self.tokens_per_second[priority]), (answers, self.answers_per_second[priority]))
        return max((waiting / rate for waiting, rate in measured if rate is not None), default=None)


class Admission:
    def __init__(self, config: EngineConfig) -> None:
        self._max_requests = config.max_waiting
        self._max_tokens = config.max_waiting_tokens
        self._max_wait = config.max_wait
        self._allowances = Allowances(config.tenants)

    def check(self, request: Request, backlog: Backlog, now: float) -> None:
        """Raises Overloaded, or DeadlineExceeded when it comes too late already."""
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceeded("the deadline had passed before the request arrived", started=False)
        self._allowances.asked(request.tenant, now)
        self._allowances.check(request.tenant, now)
        self._check_room(request, backlog)
        wait = backlog.wait(request.priority)
        if request.deadline is not None and wait is not None and now + wait >= request.deadline:
            left = request.deadline - now
            raise Overloaded(
                f"would wait for about {wait:.1f} s, and its deadline is in {left:.1f} s; send it elsewhere, or later",
                _bounded(wait - left),
                Refusal.LATE,
            )

    def admitted(self, request: Request, now: float) -> None:
        self._allowances.admitted(request.tenant, cost_of(request), now)

    def ended(self, request: Request, computed: int) -> None:
        """`computed`: tokens of it."""
        self._allowances.ended(request.tenant, max(0, cost_of(request) - computed))

    def _check_room(self, request: Request, backlog: Backlog) -> None:
        priority = request.priority
        part = OFFLINE_PART if priority is Priority.BATCH else 1.0
        if self._allowances.has_more_than_its_share(request.tenant):
            part *= GREEDY_PART
        drain = backlog.drain_seconds(priority)
        # While nothing was measured, how long the head of the queue has waited is the best guess for its end.
        again = max(1.0, backlog.oldest) if drain is None else _bounded(drain)
        requests, tokens = (sum(of[each] for each in kind(priority)) for of in (backlog.requests, backlog.tokens))
        if requests >= max(1.0, self._max_requests * part):
            raise Overloaded(f"{requests} requests are waiting already; try again later", again)
        if self._max_tokens is not None and tokens and tokens + cost_of(request) > self._max_tokens * part:
            raise Overloaded(f"requests of {tokens} tokens are waiting already; try again later", again)
        seconds = longest_wait(kind(priority)[0], self._max_wait) / 2
        if drain is not None and drain > seconds * (part / OFFLINE_PART if priority is Priority.BATCH else part):
            raise Overloaded(f"who waits already takes about {drain:.1f} s to begin; try again later", again)


def _bounded(seconds: float) -> float:
    return min(LATEST, max(SOONEST, seconds))
