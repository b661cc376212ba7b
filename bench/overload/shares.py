"""What the server's own counters say, once a second: the offline share of its tokens, its memory and processor time."""

import asyncio
import time

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

WINDOW = 10  # seconds over which the share is promised


class Samples:
    def __init__(self, http: str) -> None:
        self._url = f"http://{http}/metrics"
        self._tokens: list[tuple[float, dict[str, float]]] = []  # seconds since the beginning; by class
        self._processor: list[tuple[float, float]] = []  # seconds since the beginning; of the processor
        self.resident_mib = 0.0  # the most that was seen

    async def take(self, seconds: float) -> None:
        begin = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while (passed := time.monotonic() - begin) < seconds:
                async with session.get(self._url) as response:
                    self._read(passed, await response.text())
                await asyncio.sleep(1.0)

    def offline_shares(self, start: float, stop: float) -> list[float]:
        """Of every window of 10 s between them; the server's time and ours differ by a step at most."""
        counted = [one for one in self._tokens if start <= one[0] <= stop]
        shares = []
        for (_, before), (_, after) in zip(counted, counted[WINDOW:], strict=False):
            done = {name: after[name] - before[name] for name in after}
            shares.append(done["batch"] / sum(done.values()))
        return shares

    def processor_share(self, start: float) -> float:
        """Cores that it kept busy from then on."""
        (began, before), *_, (ended, after) = [one for one in self._processor if one[0] >= start]
        return round((after - before) / (ended - began), 3)

    def _read(self, passed: float, text: str) -> None:
        tokens: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "headrace_step_tokens_total":
                    tokens[sample.labels["class"]] = sample.value
                elif sample.name == "process_resident_memory_bytes":
                    self.resident_mib = max(self.resident_mib, round(sample.value / 2**20, 1))
                elif sample.name == "process_cpu_seconds_total":
                    self._processor.append((passed, sample.value))
        self._tokens.append((passed, tokens))
