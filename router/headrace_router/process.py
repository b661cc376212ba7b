"""The router as a process: Envoy beside the picker, each told what the other hears, and a calm end."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from headrace_router.admin import serve
from headrace_router.metrics import RouterMetrics
from headrace_router.observe.cluster import connected
from headrace_router.observe.guidance import followed
from headrace_router.observe.load import ask_all
from headrace_router.observe.pods import endpoints
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.picker import Picker
from headrace_router.proxy.access_log import Over
from headrace_router.proxy.bootstrap import Bootstrap, Listening
from headrace_router.proxy.certificates import Certificates
from headrace_router.proxy.envoy import Envoy
from headrace_router.proxy.hop import Hop
from headrace_router.proxy.line import listening as listening_line
from headrace_router.proxy.question import Questions
from headrace_router.proxy.troubles import Troubles
from headrace_router.report import report
from headrace_router.settings import Model, Settings
from headrace_router.values import Door, Found, Guidance, Secured

BEAT = 0.25  # seconds between two looks at the replicas' load and at what is held
CERTIFICATES_EVERY = 10.0  # seconds between two looks at when they end
ENVOY_ENDS = 5.0  # seconds that Envoy may take to end once no stream is left
log = logging.getLogger(__name__)


class Process:
    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._leaving = asyncio.Event()
        self._idle = asyncio.Event()  # leaving, and nothing is inside any more
        self._fleet = Fleet({model.name: Picker(settings.terms) for model in settings.models})
        self._registry = CollectorRegistry()
        self._metrics = RouterMetrics(self._registry)
        self._clock = asyncio.get_running_loop().time
        for model in settings.models:
            self._guided(model, settings.guidance)
            self._tell_held(model)
        self._metrics.held.set_function(lambda: self._fleet.held)
        self._metrics.oldest_held.set_function(lambda: self._fleet.oldest_held_seconds(self._clock()))
        self._metrics.in_flight.set_function(lambda: self._fleet.in_flight)
        self._questions = Questions(self._fleet, settings.rules, self._metrics, self._clock)
        self._hop = Hop(
            self._questions, self._fleet, settings.rules.fallback, self._metrics, self._clock,
            secured=self._secured,
        )  # fmt: skip
        self._certificates: Certificates | None = None  # none before it began
        self._troubles = Troubles()
        self._listed: set[str] = set()  # models whose replicas are known, be it none

    def leave(self) -> None:
        self._leaving.set()

    async def run(self) -> None:
        """Until `leave`. Raises an ExceptionGroup of RouterErrors."""
        with tempfile.TemporaryDirectory(prefix="headrace-router-") as folder:
            async with self._open(Path(folder)) as envoy, asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(envoy.listen(self._finished)),
                    *(tasks.create_task(self._follow(envoy, model)) for model in self._settings.models),
                    *(tasks.create_task(self._follow_guidance(model)) for model in self._settings.models),
                    tasks.create_task(self._beat()),
                ]
                addresses = await envoy.listeners()
                others.append(tasks.create_task(self._tell_certificates(envoy)))
                log.info("listening: gRPC %s, HTTP %s", addresses[Door.GRPC], addresses[Door.HTTP])
                tasks.create_task(self._until_left(envoy, others))

    @contextlib.asynccontextmanager
    async def _open(self, folder: Path) -> AsyncIterator[Envoy]:
        listening = self._settings.listening
        trusts = {model.name: model.trust for model in self._settings.models if model.trust}
        self._certificates = certificates = Certificates(self._settings.certificate, trusts, folder)
        sockets = Listening(listening.grpc_port, listening.http_port, folder / "picker.sock", folder / "hop.sock")
        async with listening_line(sockets.picker, self._questions.answer), self._hop.listening(sockets.hop):
            bootstrap = Bootstrap(
                listening.host,
                sockets,
                folder,
                tuple(model.name for model in self._settings.models),
                self._settings.rules.default,
                self._settings.terms.held.seconds,
                listening.most_connections,
                tuple(sorted(self._settings.rules.headers())),
                self._settings.rules.needs_length(),
                certificates.own_file,
                certificates.trusted,
            )
            envoy = Envoy(bootstrap, folder, listening.threads)
            admin = await serve(
                listening.host, listening.admin_port, self._registry, lambda: self._not_ready(envoy),
                lambda: report(self._registry),
            )  # fmt: skip
            log.info("metrics and health: %s:%d", listening.host, _port(admin))
            try:
                await envoy.start()
                yield envoy
            finally:
                await envoy.end(ENVOY_ENDS)
                await admin.cleanup()

    async def _not_ready(self, envoy: Envoy) -> str | None:
        """Why no request should come here; None if it may."""
        if self._leaving.is_set():
            return "leaving"
        if len(self._listed) < len(self._settings.models):
            return "the replicas are not listed yet"
        return None if await envoy.ready() else "Envoy is not ready"

    async def _follow(self, envoy: Envoy, model: Model) -> None:
        """Whom requests may go to."""
        if model.replicas is None:
            await self._there_are(envoy, model, model.fixed)
            return
        async with connected(self._settings, self._environ) as api:
            async for found in endpoints(api, model.replicas):
                await self._there_are(envoy, model, found)

    async def _follow_guidance(self, model: Model) -> None:
        """What the operator asks of us."""
        if model.replicas is None:
            return
        async with connected(self._settings, self._environ) as api:
            async for guidance in followed(api, model.replicas):
                self._guided(model, guidance)

    def _guided(self, model: Model, guidance: Guidance) -> None:
        picker = self._fleet.pickers[model.name]
        picker.guided(guidance)
        self._metrics.start_seconds.labels(model.name).set(picker.start_seconds)

    def _tell_held(self, model: Model) -> None:
        """By the deployment, for which the operator asks."""
        picker, names = self._fleet.pickers[model.name], (model.name, str(model.replicas or ""))
        self._metrics.model_held.labels(*names).set_function(lambda: picker.held)
        oldest = self._metrics.model_oldest_held.labels(*names)
        oldest.set_function(lambda: picker.oldest_held_seconds(self._clock()))

    async def _there_are(self, envoy: Envoy, model: Model, found: Found) -> None:
        """Who is gone gets nothing from now on; who is new gets something once Envoy knows of it."""
        if len(self._settings.models) > 1:
            found = Found(found.serving)  # Envoy knows the mirrors of one model
        picker = self._fleet.pickers[model.name]
        staying = tuple(endpoint for endpoint in picker.endpoints if endpoint in found.serving)
        if found.serving != picker.endpoints:
            self._troubles.forget()
        picker.there_are(Found(staying, found.mirrors))
        self._listed.add(model.name)
        await envoy.there_are(model.name, found)
        picker.there_are(found)
        self._metrics.replicas.set(len(self._fleet.endpoints))
        self._questions.settle()

    async def _beat(self) -> None:
        at = self._clock()
        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                await asyncio.gather(*(self._ask(session, model) for model in self._settings.models))
                self._look()
                await asyncio.sleep(BEAT)
                at, before = self._clock(), at
                self._charge(at - before)

    async def _ask(self, session: aiohttp.ClientSession, model: Model) -> None:
        """The model's replicas how busy they are."""
        picker = self._fleet.pickers[model.name]
        await ask_all(session, picker.endpoints, picker.heard, self._clock, self._secured(model.name))

    def _charge(self, seconds: float) -> None:
        """What the replicas cost since the last beat."""
        for model in self._settings.models:
            ready = len(self._fleet.pickers[model.name].endpoints)
            self._metrics.replica_seconds.labels(model.name).inc(ready * seconds)
            self._metrics.cost.labels(model.name).inc(ready * seconds / 3600 * model.cost_per_hour)

    async def _tell_certificates(self, envoy: Envoy) -> None:
        """When they end, as Envoy says it: what it shows counts."""
        secrets = self._certificates.secrets if self._certificates else []
        while secrets:
            ends = await envoy.certificate_ends()
            for secret in secrets:
                if secret.name in ends:
                    self._metrics.certificate_ends.labels(*secret.labels).set(ends[secret.name])
            await asyncio.sleep(CERTIFICATES_EVERY)

    def _secured(self, model: str) -> Secured | None:
        return self._certificates.secured.get(model) if self._certificates else None

    def _look(self) -> None:
        if self._certificates:
            self._certificates.look()
            for secret in self._certificates.secrets:
                self._metrics.reload_ok.labels(*secret.labels).set(not secret.is_refused)
        self._questions.settle()
        if self._leaving.is_set() and not (self._fleet.in_flight or self._fleet.held):
            self._idle.set()

    def _finished(self, told: Over) -> None:
        self._troubles.heard(told)
        if not told.reached:
            self._metrics.unreached.inc()
        if self._fleet.finished(told.stream, told.reached, self._clock()):
            self._metrics.ejections.inc()
        if self._fleet.held:
            self._questions.settle()

    async def _until_left(self, envoy: Envoy, tasks: list[asyncio.Task[None]]) -> None:
        """New requests still come for a moment; then clients are told to connect elsewhere, and what runs may end."""
        await self._leaving.wait()
        log.info("leaving: %d requests under way, %d held", self._fleet.in_flight, self._fleet.held)
        await asyncio.sleep(self._settings.leaving.linger)
        await envoy.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._settings.leaving.patience)
        self._questions.tell(self._fleet.drain())
        for task in tasks:
            task.cancel()


def _port(runner: web.BaseRunner) -> int:
    return int(runner.addresses[0][1])
