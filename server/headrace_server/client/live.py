"""What a load test sees while it runs: one line that changes on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable
from typing import TextIO

from headrace_server.client.summary import Outcome, percentile

REDRAW, EVERY = 0.2, 10.0  # seconds between two lines, on a terminal and elsewhere
RECENT = 200  # answers that the shown percentile is of


class Live:
    def __init__(self, clock: Callable[[], float], out: TextIO = sys.stderr) -> None:
        self._clock = clock
        self._out = out
        self._changes = out.isatty()
        self._start = self._shown_at = clock()
        self._answered = self._failed = self._tokens = 0
        self._ttfts: list[float] = []

    def heard(self, outcome: Outcome) -> None:
        self._answered += outcome.failure is None
        self._failed += outcome.failure is not None
        self._tokens += outcome.generated_tokens
        if outcome.ttft is not None:
            self._ttfts = [*self._ttfts[1 - RECENT :], outcome.ttft]
        now = self._clock()
        if now - self._shown_at >= (REDRAW if self._changes else EVERY):
            self._shown_at = now
            self._show()

    def close(self) -> None:
        if self._changes:
            self._show()
            self._out.write("\n")

    def _show(self) -> None:
        passed = max(self._clock() - self._start, 1e-9)
        p95 = f"{percentile(sorted(self._ttfts), 0.95) * 1000:.0f} ms" if self._ttfts else "-"
        line = (
            f"{passed:.0f} s: {self._answered} answered, {self._failed} failed, "
            f"{self._tokens / passed:.0f} tokens/s, first token p95 {p95}"
        )
        self._out.write(f"\r\x1b[K{line}" if self._changes else f"headrace: {line}\n")
        self._out.flush()
