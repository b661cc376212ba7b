"""Asks all pods at once, each with its own deadline: one that hangs costs its own sample and delays nobody.

Not even its own deployment, but for the first time: who did not answer in time is asked again, and not waited for.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Generic, TypeVar

import aiohttp
from yarl import URL

from headrace_operator.decide.values import PodSample
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe import exposition, server_facts
from headrace_operator.observe.prometheus import asking, lines
from headrace_operator.observe.server_facts import ServerFacts

logger = logging.getLogger(__name__)
REMEMBERED_SILENT = 1000  # pods
# A server takes 5 ms to write all its series, and we read a tenth of them.
QUERY = asking((*exposition.READ, *server_facts.READ))


class Failure(StrEnum):
    """Why a pod's metrics are not had; label `reason` of headrace_operator_scrape_errors."""

    REFUSED = "refused"  # nobody listens: usually a server that loads
    TIMEOUT = "timeout"
    CONNECTION = "connection"  # broke
    STATUS = "http_status"  # not 200
    INVALID = "invalid"  # not what the contract promises


def _nobody(failure: Failure) -> None:
    del failure


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer says: the numbers of this moment, and facts of this process."""

    sample: PodSample
    facts: ServerFacts


Told = TypeVar("Told")


class Asking(ABC, Generic[Told]):
    """Of pods of one kind."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        timeout: float,
        clock: Callable[[], float],
        failed: Callable[[Failure], None] = _nobody,
    ) -> None:
        """`timeout` in seconds for each pod; `clock` gives epoch seconds; `failed` hears each failure."""
        self._failed = failed
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._clock = clock
        self._silent: dict[str, asyncio.Task[Told | Failure]] = {}  # by URL: who did not answer in time, asked again

    @abstractmethod
    def _read(self, text: str, at: float) -> Told:
        """What a pod's text says, which came at that moment. Raises ScrapeFailed."""

    async def scrape(self, urls: Mapping[str, str]) -> dict[str, Told | None]:
        """By the given keys (pod UIDs); None for a pod that did not answer as the contract says."""
        awaited = {uid: url for uid, url in urls.items() if url not in self._silent}
        late = {uid: self._late(url) for uid, url in urls.items() if url in self._silent}
        answers = await asyncio.gather(*(self._ask(url) for url in awaited.values()))
        for url, answer in zip(awaited.values(), answers, strict=True):
            if answer is Failure.TIMEOUT:
                self._ask_beside(url)
        said = {**late, **dict(zip(awaited, answers, strict=True))}
        return {uid: None if isinstance(answer, Failure) else answer for uid, answer in said.items()}

    async def close(self) -> None:
        """Ends what is still asked, before the session closes."""
        for ask in self._silent.values():
            ask.cancel()
        await asyncio.gather(*self._silent.values(), return_exceptions=True)

    def _late(self, url: str) -> Told | Failure:
        """What a silent pod has answered since the last scrape. Who did answer is waited for from then on."""
        ask = self._silent[url]
        if not ask.done():
            return Failure.TIMEOUT
        del self._silent[url]
        if ask.result() is Failure.TIMEOUT:
            self._ask_beside(url)
        return ask.result()

    def _ask_beside(self, url: str) -> None:
        """Without waiting for it. Model routers are asked for each of their deployments, and once is enough."""
        if url in self._silent:
            return
        self._silent[url] = asyncio.create_task(self._ask(url))
        if len(self._silent) > REMEMBERED_SILENT:  # the oldest belong to pods that are gone
            del self._silent[next(iter(self._silent))]

    async def _ask(self, url: str) -> Told | Failure:
        try:
            async with self._session.get(_parsed(url), timeout=self._timeout, raise_for_status=True) as response:
                return self._read((await response.read()).decode(errors="replace"), self._clock())
        except aiohttp.ClientConnectorError as error:  # a server that loads may not listen yet
            failure = Failure.REFUSED
            logger.debug("no metrics from %s: %s", url, error)
        except (aiohttp.ClientError, TimeoutError, ScrapeFailed) as error:
            failure = _failure(error)
            logger.info("no metrics from %s: %s: %s", url, type(error).__name__, error)
        self._failed(failure)
        return failure


class Scraper(Asking[Reading]):
    """Of servers."""

    def _read(self, text: str, at: float) -> Reading:
        try:
            told = lines(text)
            facts = server_facts.facts(told)
        except ValueError as error:
            raise ScrapeFailed(f"no Prometheus text: {error}") from error
        return Reading(exposition.sample(told, at, drained=facts.drained), facts)


def _failure(error: Exception) -> Failure:
    match error:
        case TimeoutError():
            return Failure.TIMEOUT
        case ScrapeFailed():
            return Failure.INVALID
        case aiohttp.ClientResponseError():
            return Failure.STATUS
        case _:
            return Failure.CONNECTION


@lru_cache(maxsize=8192)
def _parsed(url: str) -> URL:
    """Parsing it is a tenth of a scrape's work, and a pod's address does not change."""
    whole = URL(url, encoded=True)
    host, port, path = whole.raw_host or "", whole.port, whole.raw_path
    return URL.build(scheme="http", host=host, port=port, path=path, query_string=QUERY, encoded=True)
