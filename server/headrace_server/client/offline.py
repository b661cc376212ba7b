"""One request of an offline job to a server, until it is answered: a job outlives restarts and full queues."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from headrace_server.client.connection import PLAIN, Connection, base_url
from headrace_server.rpc.batches.lines import Code, Line, answered, unanswered

COME_BACK = frozenset({429, 502, 503})  # full, not there yet or any more; everything else is an answer
RETRIES = "x-stainless-retry-count"  # OpenAI's word for it, which the server knows: the demand is counted once
LONGEST_PAUSE = 30.0  # seconds between two attempts, when the server names no time itself
FIRST_PAUSE = 0.25  # seconds; doubled with each attempt


class GaveUp(Exception):
    """The server has answered nothing for too long."""


class OfflineServer:
    def __init__(
        self,
        address: str,
        *,
        attempt_timeout: float,
        patience: float,
        on_pause: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        connection: Connection = PLAIN,
    ) -> None:
        """`attempt_timeout`, `patience`: seconds an attempt may take, and seconds without any answer until GaveUp."""
        self._base = base_url(address)
        # A connection stays with the replica that took it; a new one for each request also reaches those that come up.
        self._session = connection.session(timeout=attempt_timeout, fresh_connections=True)
        self._patience = patience
        self._on_pause = on_pause
        self._clock = clock
        self._answered_at = clock()

    async def models(self) -> frozenset[str]:
        """What it serves. Raises GaveUp."""
        status, raw = await self._until_answered("GET", "/v1/models", None)
        try:
            return frozenset(str(card["id"]) for card in json.loads(raw)["data"])
        except (ValueError, TypeError, KeyError) as strange:
            message = f"{self._base}/v1/models answered HTTP {status} and no list of models; is it a Headrace server?"
            raise GaveUp(message) from strange

    async def result(self, line: Line) -> dict[str, Any]:
        """Raises GaveUp."""
        body = {**line.body, "priority": "batch"}
        status, raw = await self._until_answered("POST", line.url, body)
        try:
            answer = json.loads(raw)
        except ValueError:
            return unanswered(line.custom_id, Code.NOT_JSON, f"HTTP {status}: {raw[:200].decode(errors='replace')}")
        request_id = str(answer.get("id", "")) if isinstance(answer, dict) else ""
        return answered(line.custom_id, status, request_id, answer)

    async def close(self) -> None:
        await self._session.close()

    async def _until_answered(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        pause, tries = FIRST_PAUSE, 0
        while True:
            wanted: float | None = None
            again = {RETRIES: str(tries)} if tries else {}
            try:
                async with self._session.request(method, f"{self._base}{path}", json=body, headers=again) as response:
                    raw = await response.read()
                if response.status not in COME_BACK:
                    self._answered_at = self._clock()
                    return response.status, raw
                wanted = _seconds(response.headers.get("Retry-After"))
                why = f"HTTP {response.status}: {_message(raw)}"
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as broken:
                why = f"{type(broken).__name__}: {broken}"
            await self._pause(why, pause if wanted is None else wanted)
            pause = min(2 * pause, LONGEST_PAUSE)
            tries += 1

    async def _pause(self, why: str, seconds: float) -> None:
        """Jitter above, never below: all who were told the same time must not come back together, and not early."""
        silent = self._clock() - self._answered_at
        if silent > self._patience:
            raise GaveUp(f"no answer from {self._base} for {silent:.0f} s; the last attempt ended with {why}")
        self._on_pause(why)
        await asyncio.sleep(seconds * random.uniform(1.0, 1.25))


def _seconds(header: str | None) -> float | None:
    """Of Retry-After; its other form, a date, no inference server sends."""
    return float(header) if header is not None and header.isdigit() else None


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return raw[:200].decode(errors="replace")
