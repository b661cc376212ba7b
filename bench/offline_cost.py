"""What offline work costs those who are online, by the engine alone: whatever else the machine does is left out.

    python bench/offline_cost.py --json -

The real model and the real scheduler; the time is simulated. A step takes the processor time that the model took for
it, and an idle engine waits for nobody. Two engines go through the same arrivals side by side, one of them with offline
requests always waiting, and whichever is behind takes its next step: a moment in which the machine is slow is slow for
both. `offline_costs` is how much longer the first token takes beside offline work, as in bench/scheduling.py.
"""

import argparse
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
import torch
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.config import EngineConfig
from headrace_server.engine.admission import Admission
from headrace_server.engine.core import Runner
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Step
from headrace_server.request import Priority, Request
from joining import loaded
from overload.costs import Turn, costs
from simulation import Simulated, Times

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
PLACES, PROMPT, ANSWER = 8, (16, 64), (32, 64)  # sequences, tokens
OFFLINE = 24  # requests that wait: always more than can run
SETTLING = 5.0  # seconds that are not counted: times are learned
MEASURING = 10.0  # seconds in which the capacity is measured
PERCENTS = (50, 95, 99)
CONFIG = EngineConfig(max_running=PLACES, prefix_cache=False, kv_cache_bytes=2**27)


@dataclass(frozen=True, slots=True)
class Model:
    """Computes the steps that it tells the times of."""

    runner: Runner

    def seconds_of(self, step: Step) -> float:
        began = time.process_time()
        self.runner.launch(step).wait()
        return time.process_time() - began


class Side:
    """One engine. `fed`: how many requests of a class it always has waiting."""

    def __init__(self, machine: Times, kv_pages: int, fed: tuple[int, Priority] | None = None) -> None:
        self.server = Simulated(machine, Scheduler(CONFIG, kv_pages), Admission(CONFIG))
        self._dice = random.Random(1)
        self._fed = fed

    def go(self, coming: deque[Request], until: float) -> None:
        """One turn of a loop that takes in who has come."""
        server = self.server
        while coming and coming[0].arrived_at <= server.now:
            server.arrive(coming.popleft())
        if self._fed is not None:
            most, priority = self._fed
            for _ in range(most - server.scheduler.queue.requests(priority)):
                server.arrive(a_request(server.now, self._dice, priority))
        server.turn_or_wait(min(until, coming[0].arrived_at) if coming else until)

    def times_to_first_token(self) -> list[float]:
        """Of online requests that came after SETTLING, by their arrival."""
        lives = self.server.lives.values()
        online = [life for life in lives if life.request.priority is not Priority.BATCH and life.first_token]
        return [life.ttft for life in online if life.request.arrived_at > SETTLING]

    def offline_share(self) -> float:
        steps = [step for step in self.server.steps if step.ended > SETTLING]
        return sum(step.offline for step in steps) / max(1, sum(step.tokens for step in steps))


def a_request(now: float, dice: random.Random, priority: Priority) -> Request:
    prompt = tuple(dice.randint(1, 500) for _ in range(dice.randint(*PROMPT)))
    return Request("", prompt, dice.randint(*ANSWER), arrived_at=now, priority=priority)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[Request]:
    """A Poisson process of both online classes."""
    dice, now = random.Random(seed), 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        yield a_request(now, dice, dice.choice((Priority.INTERACTIVE, Priority.STANDARD)))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two of the same machine, as each keeps the KV of its own requests."""

    machines: tuple[Times, Times]
    kv_pages: int  # of each

    def capacity(self) -> float:
        """Requests per second that are answered while twice as many wait as can run."""
        side = Side(self.machines[0], self.kv_pages, (2 * PLACES, Priority.STANDARD))
        while side.server.now < MEASURING:
            side.go(deque(), MEASURING)
        return sum(life.ended is not None for life in side.server.lives.values()) / side.server.now

    def turn(self, rate: float, seconds: float, seed: int) -> tuple[Side, Side]:
        """Alone, and beside offline work."""
        alone, beside = self.machines
        both = (Side(alone, self.kv_pages), Side(beside, self.kv_pages, (OFFLINE, Priority.BATCH)))
        coming = [deque(arrivals(rate, seconds, seed)) for _ in both]
        while True:
            behind = min((0, 1), key=lambda one: both[one].server.now)
            if both[behind].server.now >= seconds:
                return both
            both[behind].go(coming[behind], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each turn, simulated (default %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each load (default %(default)s)")
    parser.add_argument("--loads", type=float, nargs="+", default=(0.2, 0.5, 0.8), help="of the capacity")
    add_json(parser)
    options = parser.parse_args()
    if options.seconds <= SETTLING or options.turns < 1:
        parser.error(f"argument --seconds: must be more than {SETTLING:g}, and --turns at least 1")
    torch.set_num_threads(1)
    models = [loaded(options.model, "float32", CONFIG) for _ in range(2)]
    pair = Pair((Model(models[0].runner), Model(models[1].runner)), models[0].limits.kv_pages)
    capacity = pair.capacity()
    print(f"capacity: {capacity:.1f} requests/s", file=sys.stderr)
    rows = [measured(pair, load, load * capacity, options.seconds, options.turns) for load in options.loads]
    work = {
        "model": options.model.name, "places": PLACES, "prompt_tokens": PROMPT, "answer_tokens": ANSWER,
        "capacity_requests_per_second": round(capacity, 1), "seconds": options.seconds, "turns": options.turns,
    }  # fmt: skip
    report(options.json, work, rows, torch=torch.__version__)


def measured(pair: Pair, load: float, rate: float, seconds: float, turns: int) -> dict[str, Any]:
    sides = []
    for seed in range(turns):
        sides.append(pair.turn(rate, seconds, seed))
        print(f"{load:g} x, turn {seed + 1} of {turns} is done", file=sys.stderr, flush=True)
    found = [Turn(alone.times_to_first_token(), beside.times_to_first_token()) for alone, beside in sides]
    shares = [beside.offline_share() for _, beside in sides]
    together: dict[str, Callable[[Turn], Any]] = {"alone": lambda turn: turn.alone, "beside": lambda turn: turn.beside}
    row: dict[str, Any] = {
        "name": f"{load:g} x the capacity",
        "requests": sum(len(turn.alone) for turn in found),
        "offline_share": [round(share, 3) for share in (min(shares), max(shares))],
    }
    for percent in PERCENTS:
        for name, of in together.items():
            row[f"ttft_p{percent}_{name}_ms"] = milliseconds([time for turn in found for time in of(turn)], percent)
        row[f"offline_costs_ttft_p{percent}"] = costs(found, percent)
    return row


if __name__ == "__main__":
    main()
