"""How many prompt tokens may join those who decode, so that nobody's next token takes much longer than usual.

Learned from the steps themselves, since a constant would have to know the model and the machine: how long a step takes
that only decodes, by how many decode, and what a prompt token adds to it, by the context that it reads.
"""

from dataclasses import dataclass
from math import log2

SLOWER = 2.25  # a step with prefill may take so many times one without; callers bear 3, the rest is for what varies
SMALLEST = 8  # tokens; a prompt always goes on
UNKNOWN = 64  # tokens of a chunk that has to be short, before any was seen
PROOF = 64  # steps with prefill after which one without tells again what is usual
LEAST = 0.25  # times a usual step: what tokens add is never taken for less, so the next chunk grows sixfold at most
CONTEXT = 256  # tokens that make little difference
STEPS = 4  # sizes of batches, and depths of contexts, from one to its double
KEPT = 0.98  # of what was seen before, in the sums
SPIKE = 2.0  # a step counts as at most so many times the average: a moment in which the machine was busy is no trend
SLOWLY, QUICKLY = 0.2, 0.5  # share of the newest step in an average; dear prompt tokens are believed quickly


@dataclass(frozen=True, slots=True)
class Cost:
    context: int  # tokens before the prompt tokens that cost this
    seconds: float  # that each of them adds to a step


class PrefillPace:
    """Pure: the seconds are told."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._usual: dict[int, float] = {}  # seconds of a step that only decodes, by the size of its batch
        self._unproven: dict[int, int] = {}  # steps with prefill since one without, likewise
        self._alone: dict[int, float] = {}  # seconds of a prompt token, the step's own included; likewise, the least
        self._costs: dict[int, Cost] = {}  # by the depth of the context
        self._added: dict[int, tuple[float, float]] = {}  # tokens, and seconds that they added, likewise; recent ones

    def observe(self, decoding: int, filling: int, context: int, seconds: float) -> None:
        """A step of so many decoding sequences and prompt tokens, these after so much context, took so long."""
        batch = _size(decoding)
        if not filling:
            self._usual[batch] = _moved(self._usual.get(batch, seconds), seconds, SLOWLY)
            self._unproven[batch] = 0
        elif not decoding:  # a first guess: more than what is added to others' steps
            cost, depth = seconds / filling, _depth(context)
            self._costs.setdefault(depth, Cost(context, cost))
            self._alone[depth] = min(cost, self._alone.get(depth, cost))
        else:
            self._unproven[batch] = self._unproven.get(batch, 0) + 1
            if usual := self._usual.get(batch):
                tokens, added = self._added.get(_depth(context), (0.0, 0.0))
                extra = min(seconds, (1 + SPIKE) * usual) - usual
                self._added[_depth(context)] = (tokens * KEPT + filling, added * KEPT + extra)
                self._learn(context, filling, (seconds - usual) / filling, LEAST * usual / filling)

    def prefill_tokens(self, decoding: int, context: int) -> int:
        """In one step, after so much context; all that a step may hold when nobody decodes.

        0, in a few of many steps: such a step tells how long one takes that only decodes.
        """
        if not decoding:
            return self._max_tokens
        batch = _size(decoding)
        if self._unproven.get(batch, 0) >= (PROOF if self._is_near(batch) else 1):
            return 0
        usual, cost = self._expected(batch), self._cost(context)
        if usual is None or cost is None:
            return SMALLEST
        spare = (SLOWER - 1) * usual
        return self._max_tokens if cost * self._max_tokens <= spare else max(SMALLEST, int(spare / cost))

    def within(self, seconds: float, context: int) -> int:
        """Prompt tokens after so much context that take so long; few before it is known."""
        cost = self._alone.get(_depth(context)) or self._cost(context)
        if cost is None:
            return min(self._max_tokens, UNKNOWN)
        return self._max_tokens if cost * self._max_tokens <= seconds else max(SMALLEST, int(seconds / cost))

    def is_proven(self, decoding: int) -> bool:
        """Whether it is known well enough how long a step takes in which so many decode and nothing else: else the next
        such step had better be one."""
        batch = _size(decoding)
        return self._unproven.get(batch, 0) < (PROOF // 2 if self._is_near(batch) else 1)

    def usual(self, decoding: int) -> float | None:
        """Seconds of a step in which so many decode and nothing else; None: not seen yet."""
        return self._expected(_size(decoding))

    def sequence_cost(self, decoding: int) -> float | None:
        """Seconds that each adds who decodes beside so many: the slope through what was seen; if that is one size of
        batches only, as if each took its part of the whole step. None: not seen yet."""
        usual = self.usual(decoding)
        if usual is None:
            return None
        if len(self._usual) < 2:
            return usual / max(1, decoding)
        points = [(2 ** (size / STEPS), seconds) for size, seconds in self._usual.items()]
        middle = sum(count for count, _ in points) / len(points)
        slope = sum((count - middle) * seconds for count, seconds in points)
        return max(0.0, slope / sum((count - middle) ** 2 for count, _ in points))

    def token_cost(self, context: int) -> float | None:
        """Seconds that a prompt token after so much context adds to a step of others; None: not seen yet."""
        tokens, seconds = self._added.get(_depth(context), (0.0, 0.0))
        return max(0.0, seconds / tokens) if tokens >= PROOF else self._cost(context)

    def _learn(self, context: int, filling: int, cost: float, least: float) -> None:
        """The few tokens that end a prompt tell little: what each adds is mostly what any chunk adds."""
        depth = _depth(context)
        expected = self._cost(context) or max(cost, least)
        cost = max(cost, min(least, expected))
        share = 1.0 if depth not in self._costs else QUICKLY if cost > expected else SLOWLY
        self._costs[depth] = Cost(context, _moved(expected, cost, share * min(1.0, filling / SMALLEST)))

    def _is_near(self, batch: int) -> bool:
        """To one that was seen."""
        return any(abs(known - batch) <= STEPS for known in self._usual)

    def _expected(self, batch: int) -> float | None:
        """What is usual for such a batch; if it was not seen, for a smaller one, or what a larger one tells."""
        if batch in self._usual or not self._usual:
            return self._usual.get(batch)
        smaller = [known for known in self._usual if known < batch]
        if smaller:
            return self._usual[max(smaller)]
        larger = min(self._usual)
        # Half the batch takes at least half the time; those of a size differ by less than a step of sizes.
        return float(self._usual[larger] * 2 ** ((batch - larger - 1) / STEPS))

    def _cost(self, context: int) -> float | None:
        """What is known of such a context; of the next smaller one, grown as much as the context; of a larger one."""
        depth = _depth(context)
        if depth in self._costs:
            return self._costs[depth].seconds
        nearest = sorted(self._costs, key=lambda known: (known > depth, abs(known - depth)))
        if not nearest:
            return None
        known = self._costs[nearest[0]]
        return known.seconds * max(1.0, (context + CONTEXT) / (known.context + CONTEXT))


def _size(decoding: int) -> int:
    """Within one, a batch is at most a fifth larger than another, so its step takes at most as much longer."""
    return int(STEPS * log2(max(1, decoding)))


def _depth(context: int) -> int:
    """Within one, a context is at most a fifth longer than another."""
    return int(STEPS * log2(1 + context / CONTEXT))


def _moved(average: float, value: float, share: float) -> float:
    return average + share * (min(value, SPIKE * average) - average) if average else value
