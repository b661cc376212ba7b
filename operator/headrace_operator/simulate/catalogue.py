"""The stress catalogue: loads and faults that break autoscalers, on small replicas so that each takes about a second.

A small replica carries about three of these requests a second; the constants are chosen for that, not measured.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace_operator.service import Scaling
from headrace_operator.simulate.comparison import Comparison
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.faults import NONE, Faults
from headrace_operator.simulate.outcome import paced_work
from headrace_operator.simulate.traces import Request

SMALL = Engine(
    overhead=0.02, seconds_per_token=1e-3, seconds_per_kv_token=1e-6, tokens_per_step=128, slots=16, kv_tokens=40_000
)
PROMPT, GENERATED, SPREAD = 180, 30, 0.5  # tokens in the mean; standard deviation of their logarithms
BASE, HIGH = 4.0, 32.0  # requests/s
BEGIN, END, WHOLE = 600.0, 1500.0, 2400.0  # seconds: when the stress begins and ends, and the run
USUAL = Scaling(2, 64, queue_wait_target=0.5, utilization=0.7, scale_down_window=300.0)

Level = Callable[[float], float]  # of seconds


def _flat(_: float) -> float:
    return BASE


def _step(now: float) -> float:
    return HIGH if BEGIN <= now < END else BASE


@dataclass(frozen=True, slots=True)
class Stress:
    name: str
    load: Level = _flat  # requests/s
    peak: float = BASE  # requests/s, the highest of `load` that lasts
    cold_start: float = 90.0  # seconds
    faults: Faults = field(default=NONE)
    length: Level = lambda now: 1.0  # times the usual prompt
    longest: float = 1.0  # the highest of `length`

    @property
    def need(self) -> int:
        """Replicas for the peak at the wanted utilization."""
        mean = Request(0.0, round(PROMPT * self.longest), GENERATED)
        return math.ceil(self.peak * paced_work(SMALL, mean) / USUAL.utilization)

    def comparison(self, seed: int = 1) -> Comparison:
        requests = poisson(self.load, self.length, WHOLE, seed)
        return Comparison(
            requests, USUAL, engine=SMALL, cold_start=self.cold_start, faults=self.faults, start=4, seed=seed
        )


def poisson(load: Level, length: Level, seconds: float, seed: int) -> list[Request]:
    """Arrivals whose rate changes each second, with lognormal lengths."""
    rng, now = random.Random(seed), 0.0
    made: list[Request] = []
    while True:
        rate = load(now)
        now += rng.expovariate(rate) if rate > 0 else 1.0
        if now >= seconds:
            return made
        made.append(Request(now, _drawn(rng, PROMPT * length(now)), _drawn(rng, GENERATED)))


def _drawn(rng: random.Random, mean: float) -> int:
    return max(1, round(mean * math.exp(rng.gauss(-SPREAD * SPREAD / 2, SPREAD))))


def _noise(now: float) -> float:
    return 3 * BASE * random.Random(int(now / 2)).uniform(0.7, 1.3)


CATALOGUE: tuple[Stress, ...] = (
    Stress("step x8", _step, HIGH),
    Stress("ramp", lambda now: BASE + (HIGH - BASE) * min(1.0, max(0.0, (now - BEGIN) / 600)), HIGH),
    Stress("diurnal", lambda now: 14 - 10 * math.cos(2 * math.pi * now / 1200), 24.0),
    Stress("noise of 30 %", _noise, 3 * BASE * 1.3),
    Stress("spike of 10 s", lambda now: HIGH if BEGIN <= now < BEGIN + 10 else BASE, HIGH),
    Stress("burst of 10 s every 3 min", lambda now: HIGH if now % 180 < 10 else BASE, HIGH),
    Stress("outage of metrics", _step, HIGH, faults=Faults(outages=((900.0, 1200.0),))),
    Stress("a tenth of the metrics lost", _step, HIGH, faults=Faults(metrics_loss=0.1, metrics_delay=4.0)),
    Stress("one pod lies", _flat, BASE, faults=Faults(liars=frozenset({0}))),
    Stress("a quarter of the pods is slow", _step, HIGH, faults=Faults(slow=(frozenset(range(0, 64, 4)), 2.0))),
    Stress(
        "half of the capacity is lost", lambda _: 16.0, 16.0, faults=Faults(gpus=((0.0, 64), (BEGIN, 4), (END, 64)))
    ),
    Stress("room for 6", _step, HIGH, faults=Faults(gpus=((0.0, 6),))),
    Stress("step, start of 10 s", _step, HIGH, cold_start=10.0),
    Stress("step, start of 600 s", _step, HIGH, cold_start=600.0),
    Stress("prompts x 10", _flat, BASE, length=lambda now: 10.0 if BEGIN <= now < END else 1.0, longest=10.0),
    Stress("retry storm", _step, HIGH, faults=Faults(retry_after=20.0, tells_retries=False)),
    Stress("clients that hang up", _step, HIGH, faults=Faults(retry_after=20.0, hangs_up=True)),
    Stress("step x8, untold retries", _step, HIGH, faults=Faults(tells_retries=False)),
)
