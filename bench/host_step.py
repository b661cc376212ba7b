"""What the host does for one decode step, in milliseconds: plan it, pack it for the device, commit the one before.

    python bench/host_step.py --json -

No model runs: a stand-in chooses the same token for everybody, at once. What is left is plain Python, whose time must
not grow with the context, nor with the queue.
The order is that of the overlapped loop: a step is planned before the last one is committed.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.config import EngineConfig
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Step
from headrace_server.model.descriptor import DescriptorRing
from headrace_server.request import Request

WAITING = 256  # requests, each of another tenant, behind a full server
CONTEXTS = (1024, 8192, 32_768)  # tokens
SEQUENCES = (1, 32, 256)
STEPS = 1000
WARM = 50  # steps before the measured ones
VOCABULARY = 128_256
CHOSEN = 7  # token id
PARTS = ("plan", "pack", "commit")
NOW = 0.0  # the scheduler's clock stands still


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of one step."""

    plan: float
    pack: float
    commit: float

    @property
    def step(self) -> float:
        return self.plan + self.pack + self.commit


class Host:
    """The host's side of an engine with so many sequences that have all been filled in and decode."""

    def __init__(self, sequences: int, context: int, steps: int, waiting: int = 0) -> None:
        pages_each = -(-(context + steps + 2) // EngineConfig().page_size)
        config = EngineConfig(max_running=sequences, max_tokens_per_step=sequences * context)
        self._scheduler = Scheduler(config, kv_pages=sequences * pages_each)
        self._ring = DescriptorRing(sequences, pages_each, sequences, VOCABULARY, torch.device("cpu"))
        for number in range(sequences):
            # Staggered, so that they do not all need a new page in the same step.
            prompt = (number, *range(1, context - number % config.page_size))
            self._scheduler.add(Request(str(number), prompt, steps + 2, arrived_at=NOW))
        self._in_flight = self._plan()
        while any(chunk.token_ids for chunk in self._in_flight.chunks):
            self._commit(self._in_flight)
            self._in_flight = self._plan()
        for number in range(waiting):
            self._scheduler.add(Request("", (number,) * 64, 64, arrived_at=NOW, tenant=str(number)))

    def step(self) -> Part:
        began = time.perf_counter()
        step = self._plan()
        planned = time.perf_counter()
        self._ring.write(step)
        packed = time.perf_counter()
        self._commit(self._in_flight)
        done = time.perf_counter()
        self._in_flight = step
        return Part(planned - began, packed - planned, done - packed)

    def _plan(self) -> Step:
        step = self._scheduler.next_step(NOW)
        assert step is not None
        return step

    def _commit(self, step: Step) -> None:
        self._scheduler.commit(step, [CHOSEN] * step.samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="measured for each row (default %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"argument --steps: is {options.steps}; must be at least 1")
    work = {"steps": options.steps, "page_size": EngineConfig().page_size}
    rows = [measured(*sizes, options.steps) for sizes in product(SEQUENCES, CONTEXTS)]
    rows.append(measured(32, CONTEXTS[0], options.steps, WAITING))
    report(options.json, work, rows, python=sys.version)


def measured(sequences: int, context: int, steps: int, waiting: int = 0) -> dict[str, Any]:
    host = Host(sequences, context, WARM + steps, waiting)
    parts = [host.step() for _ in range(WARM + steps)][WARM:]
    totals = [part.step for part in parts]
    return {
        "name": f"{sequences} at context {context}" + (f", {waiting} waiting" if waiting else ""),
        "sequences": sequences,
        "context_tokens": context,
        "step_p10_ms": milliseconds(totals, 10),  # what others on the machine disturb least
        "step_p50_ms": milliseconds(totals, 50),
        "step_p99_ms": milliseconds(totals, 99),
        **{f"{name}_p50_ms": milliseconds([getattr(part, name) for part in parts], 50) for name in PARTS},
    }


if __name__ == "__main__":
    main()
