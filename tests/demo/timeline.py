"""What the deployment looked like over time: sampled from its status, drawn as a small plot."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sample:
    at: float  # seconds since the start of the timeline
    ready: int
    desired: int
    queue_wait: str
    tokens_per_second: str
    changes: tuple[str, ...]  # the decisions that changed the number of replicas, with their reasons


class Timeline:
    """Samples one InferenceDeployment's status about once a second, and says each change aloud."""

    def __init__(self, fetch: Callable[[], Awaitable[dict[str, Any]]], say: Callable[[str], None]) -> None:
        self._fetch = fetch
        self._say = say
        self._start = time.monotonic()
        self.samples: list[Sample] = []

    async def run(self) -> None:
        while True:
            sample = self._read((await self._fetch()).get("status", {}))
            before = self.samples[-1] if self.samples else None
            self._tell(before, sample)
            self.samples.append(sample)
            await asyncio.sleep(1)

    def _tell(self, before: Sample | None, sample: Sample) -> None:
        for change in sample.changes:
            if before and change not in before.changes:
                self._say(f"  {sample.at:5.0f} s  decided: {change}")
        if before is None or (before.ready, before.desired) != (sample.ready, sample.desired):
            self._say(
                f"  {sample.at:5.0f} s  ready {sample.ready}, desired {sample.desired}, "
                f"queue wait p95 {sample.queue_wait}, {sample.tokens_per_second} tok/s"
            )

    def _read(self, status: dict[str, Any]) -> Sample:
        return Sample(
            at=time.monotonic() - self._start,
            ready=status.get("readyReplicas", 0),
            desired=status.get("desiredReplicas", 0),
            queue_wait=str(status.get("queueWaitP95", "-")),
            tokens_per_second=str(status.get("tokensPerSecond", "-")),
            changes=tuple(f"{change['reason']}: {change['message']}" for change in status.get("decisions", [])),
        )

    @property
    def peak_ready(self) -> int:
        return max((sample.ready for sample in self.samples), default=0)

    def plot(self, width: int = 72) -> str:
        """Ready replicas over time, one column per slice of time (its maximum), with the scale written below."""
        if not self.samples:
            return "(no samples)"
        end = self.samples[-1].at or 1.0
        columns = [0] * width
        for sample in self.samples:
            column = min(width - 1, int(sample.at / end * width))
            columns[column] = max(columns[column], sample.ready)
        for index in range(1, width):
            columns[index] = columns[index] or columns[index - 1]
        top = max(columns) or 1
        bars = "".join(BARS[round(value / top * (len(BARS) - 1))] for value in columns)
        numbers = "".join(str(min(value, 9)) for value in columns)
        return f"  {bars}\n  {numbers}  ready replicas\n  0 s{'':{width - 8}}{end:.0f} s"


async def status_of(kubectl: Callable[..., Awaitable[str]], name: str) -> dict[str, Any]:
    """The InferenceDeployment as the API server has it now."""
    value: dict[str, Any] = json.loads(await kubectl("get", "infdep", name, "-o", "json"))
    return value
