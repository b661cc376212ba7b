"""Who is next of those who wait. Pure; a pick costs O(tenants that wait), never O(requests that wait).

    class     interactive, standard: the one whose oldest request's wait counts most, wait * WEIGHT
              batch: never by this order, engine/reserve.py says when
    tenant    the one that got the fewest tokens so far, by its weight: virtual token counters (Sheng et al.,
              "Fairness in Serving Large Language Models", OSDI 2024). Who comes anew starts with what the one served
              last had: idle time is not saved up.
    request   first come, first served; who was preempted comes back to the place that its arrival gives it

Who waited half of what its class bears at most is overdue: the oldest one of its class is then next, whatever its
tenant got, so that no number of new tenants keeps anybody waiting for ever. docs/scheduling.md has the bound.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from headrace_server.engine.drain_rate import DrainRate
from headrace_server.engine.sequence import Sequence
from headrace_server.request import Priority

WEIGHT = {Priority.INTERACTIVE: 8, Priority.STANDARD: 4, Priority.BATCH: 1}  # what a second of waiting counts
ONLINE = (Priority.INTERACTIVE, Priority.STANDARD)
OFFLINE = (Priority.BATCH,)
REMEMBERED = 1024  # tenants of a class that wait for nothing, whose counters are kept
AHEAD = 8  # places looked at behind one that does not fit


def kind(priority: Priority) -> tuple[Priority, ...]:
    """The classes that wait in one order."""
    return OFFLINE if priority in OFFLINE else ONLINE


def longest_wait(priority: Priority, max_wait: float) -> float:
    """Seconds that a class bears at most, if the most urgent one bears `max_wait`."""
    return max_wait * WEIGHT[Priority.INTERACTIVE] / WEIGHT[priority]


@dataclass(eq=False, slots=True)
class Flow:
    """One tenant in one class."""

    weight: float
    counter: float = 0.0  # tokens that it got, over its weight
    back: list[Sequence] = field(default_factory=list)  # preempted ones by arrival; at most as many as can run
    fresh: OrderedDict[Sequence, None] = field(default_factory=OrderedDict)  # in the order of arrival

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self.back, self.fresh)

    def __bool__(self) -> bool:
        return bool(self.back or self.fresh)

    @property
    def oldest(self) -> Sequence:
        return next(iter(self))

    def got(self, tokens: int) -> None:
        self.counter += tokens / self.weight


class Lane:
    """One class."""

    def __init__(self, overdue: float, weight_of: Callable[[str], float]) -> None:
        """`overdue`: seconds of waiting after which the oldest is next."""
        self._overdue = overdue
        self._weight_of = weight_of
        self._waiting: dict[str, Flow] = {}  # by tenant
        self._idle: OrderedDict[str, Flow] = OrderedDict()  # of REMEMBERED tenants that wait for nothing
        self._floor = 0.0  # the counter of the tenant served last
        self._oldest: Sequence | None = None  # None: nobody waits, or it has to be looked for again
        self.requests = 0
        self.tokens = 0  # that they may cost
        self.answers = 0  # of them, those that may be generated

    def push(self, sequence: Sequence) -> None:
        if self._oldest is not None and sequence.request.arrived_at < self._oldest.request.arrived_at:
            self._oldest = None
        flow = self._flow(sequence.request.tenant)
        sequence.share = flow
        if sequence.queue_wait is None:
            flow.fresh[sequence] = None
        else:
            insort(flow.back, sequence, key=lambda one: one.number)
        self.requests += 1
        self.tokens += sequence.cost
        self.answers += sequence.answer_cost

    def remove(self, sequence: Sequence) -> None:
        if sequence is self._oldest:
            self._oldest = None
        tenant = sequence.request.tenant
        flow = self._waiting[tenant]
        if sequence in flow.fresh:
            del flow.fresh[sequence]
        else:
            flow.back.remove(sequence)
        self.requests -= 1
        self.tokens -= sequence.cost
        self.answers -= sequence.answer_cost
        if not flow:
            self._idle[tenant] = self._waiting.pop(tenant)
            if len(self._idle) > REMEMBERED:
                self._idle.popitem(last=False)

    def served(self, sequence: Sequence) -> None:
        flow = self._waiting[sequence.request.tenant]
        self._floor = max(self._floor, flow.counter)

    def oldest(self) -> Sequence | None:
        """Asked for in every step: looked for only when the last one has left."""
        if self._oldest is None:
            heads = (flow.oldest for flow in self._waiting.values())
            self._oldest = min(heads, key=lambda one: one.request.arrived_at, default=None)
        return self._oldest

    def order(self, now: float) -> Iterator[Sequence]:
        """The next one, then those who come next if it does not fit: the first of each tenant, then those behind."""
        oldest = self.oldest()
        if oldest is None:
            return
        overdue = now - oldest.request.arrived_at >= self._overdue
        first = oldest if overdue else min(self._waiting.values(), key=lambda flow: flow.counter).oldest
        yield first
        flows = sorted(self._waiting.values(), key=lambda flow: flow.counter)[:AHEAD]
        rest = chain((flow.oldest for flow in flows), *(islice(flow, 1, AHEAD) for flow in flows))
        yield from islice((sequence for sequence in rest if sequence is not first), AHEAD)

    def first_arrivals(self) -> Iterable[float]:
        """When the first one that never ran came, of each tenant. Any thread may ask."""
        for flow in tuple(self._waiting.values()):
            try:
                yield next(iter(flow.fresh)).request.arrived_at
            except (StopIteration, RuntimeError):  # none is fresh, or the engine thread has just taken it
                continue

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._waiting.values())

    def _flow(self, tenant: str) -> Flow:
        if tenant not in self._waiting:
            flow = self._idle.pop(tenant, None) or Flow(self._weight_of(tenant))
            flow.counter = max(flow.counter, self._floor)
            self._waiting[tenant] = flow
        return self._waiting[tenant]


class Waiting:
    """All of them, in their lanes."""

    def __init__(self, max_wait: float, weight_of: Callable[[str], float] = lambda _: 1.0) -> None:
        """`max_wait`: seconds that the most urgent class bears at most."""
        self._drain = {ONLINE: DrainRate(), OFFLINE: DrainRate()}
        self._drain_of_answers = {ONLINE: DrainRate(), OFFLINE: DrainRate()}
        self._lanes = {priority: Lane(longest_wait(priority, max_wait) / 2, weight_of) for priority in Priority}

    def push(self, sequence: Sequence) -> None:
        self._lanes[sequence.request.priority].push(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._lanes[sequence.request.priority].remove(sequence)

    def begin(self, sequence: Sequence) -> None:
        """It is served: its tenant's turn is over for a while."""
        self._lanes[sequence.request.priority].served(sequence)
        classes = kind(sequence.request.priority)
        self._drain[classes].began(sequence.cost)
        self._drain_of_answers[classes].began(sequence.answer_cost)
        self.remove(sequence)

    def look(self, now: float) -> None:
        """To be called after those who begin now have begun: measures how fast the queue empties."""
        for classes in (ONLINE, OFFLINE):
            waiting = self.any(classes)
            self._drain[classes].look(now, waiting)
            self._drain_of_answers[classes].look(now, waiting)

    def tokens_per_second(self, classes: tuple[Priority, ...]) -> float | None:
        """That leave the queue while some of ONLINE or OFFLINE wait; None = not seen yet."""
        return self._drain[classes].tokens_per_second

    def answers_per_second(self, classes: tuple[Priority, ...]) -> float | None:
        """Likewise, of the tokens that may be generated."""
        return self._drain_of_answers[classes].tokens_per_second

    def order(self, now: float, classes: tuple[Priority, ...]) -> Iterator[Sequence]:
        """Who is next of these classes, then who may overtake it if it does not fit. Not to be changed meanwhile."""
        lanes = [(self._urgency(priority, now), self._lanes[priority]) for priority in classes]
        lanes.sort(key=lambda pair: -pair[0])  # stable: the more urgent class when none has waited
        for _, lane in lanes:
            yield from lane.order(now)

    def requests(self, priority: Priority) -> int:
        return self._lanes[priority].requests

    def tokens(self, priority: Priority) -> int:
        """That those who wait may cost."""
        return self._lanes[priority].tokens

    def answers(self, priority: Priority) -> int:
        """Of them, those that may be generated."""
        return self._lanes[priority].answers

    def any(self, classes: tuple[Priority, ...]) -> bool:
        return any(self._lanes[priority].requests for priority in classes)

    def oldest(self, now: float, classes: tuple[Priority, ...] = tuple(Priority)) -> float:
        """Seconds that the one who came first, of those who never ran, has waited; 0 when there is none."""
        heads = (arrived_at for one in classes for arrived_at in self._lanes[one].first_arrivals())
        return max((now - arrived_at for arrived_at in heads), default=0.0)

    def __len__(self) -> int:
        return sum(lane.requests for lane in self._lanes.values())

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._lanes.values())

    def _urgency(self, priority: Priority, now: float) -> float:
        oldest = self._lanes[priority].oldest()
        return 0.0 if oldest is None else WEIGHT[priority] * max(0.0, now - oldest.request.arrived_at)
