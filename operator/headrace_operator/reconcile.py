"""One look at one InferenceDeployment: observe -> decide -> act, then status. At every change and interval."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from headrace_operator import kube, series
from headrace_operator.act.apply import Hands, Target, apply
from headrace_operator.act.drainer import Drainer
from headrace_operator.act.events import Recorder
from headrace_operator.budgets import Budgets
from headrace_operator.decide import conflicts, leaving, manifests, revisions, rollout_news, rollouts, routing
from headrace_operator.decide.actions import Action, ApplyBudget, ApplyService, DeleteRouting
from headrace_operator.decide.conflicts import Claims
from headrace_operator.decide.history import History
from headrace_operator.decide.plan import plan
from headrace_operator.decide.questions import questions
from headrace_operator.decide.reasons import Announcement
from headrace_operator.decide.refusal import refused, wants_pods, without_pods
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.rolling import is_full
from headrace_operator.decide.rollout_record import restored
from headrace_operator.decide.rollouts import Progress
from headrace_operator.decide.routing import Child, RouterParts
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.sizing import ordered
from headrace_operator.decide.status import Tick, is_due, status
from headrace_operator.decide.urgency import is_urgent
from headrace_operator.decide.values import Observed, Role
from headrace_operator.errors import InvalidSpec, LeaseLost
from headrace_operator.kube import Kube
from headrace_operator.memory import Memory
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.observe import routers
from headrace_operator.observe.conflicts import Autoscalers
from headrace_operator.observe.golden import GoldenProbe
from headrace_operator.observe.pods import Around, metrics_urls, observed
from headrace_operator.observe.revisions import recorded
from headrace_operator.observe.routers import RouterReading, RouterScraper
from headrace_operator.observe.scrape import Reading, Scraper
from headrace_operator.observe.server_facts import ServerFacts
from headrace_operator.observe.standing import LOOK, Standing
from headrace_operator.pace import Pace
from headrace_operator.service import InferenceDeployment, Mode
from headrace_operator.store import Store
from headrace_operator.work_queue import Key


class Reconciler:
    def __init__(
        self,
        api: Kube,
        store: Store,
        *,
        autoscalers: Autoscalers,
        scraper: Scraper,
        router_scraper: RouterScraper,
        recorder: Recorder,
        drainer: Drainer,
        golden: GoldenProbe,
        metrics: OperatorMetrics,
        budgets: Budgets,
        standing: Standing,
        pace: Pace,
        image: str,
        gate_keys: Sequence[str],
        router: RouterParts,
        clock: Callable[[], float],
    ) -> None:
        """`image`: the server's, where a manifest names none. `gate_keys`: of those who may release a model, as their
        PEM has them. `clock` gives epoch seconds.
        """
        self._api = api
        self._store = store
        self._autoscalers = autoscalers
        self._scraper = scraper
        self._router_scraper = router_scraper
        self._router = router
        self._recorder = recorder
        self._hands = Hands(api, recorder, drainer)
        self._golden = golden
        self._metrics = metrics
        self._budgets = budgets
        self._standing = standing
        self._pace = pace
        self._put: dict[
            str, Callable[[Any], object]
        ] = {  # where what was written goes, which the watch or a list may show only later
            "Pod": store.put_pod,
            revisions.KIND: store.put_revision,
            **dict.fromkeys(kube.STANDING, standing.wrote),
        }
        self._image = image
        self._gate_keys = gate_keys
        self._clock = clock
        self._memories: dict[Key, Memory] = {}
        self._facts: dict[Key, Mapping[str, ServerFacts]] = {}  # of each pod, by UID
        self._parsed: dict[Key, tuple[Mapping[str, Any], InferenceDeployment]] = {}  # with the spec it came from

    async def reconcile(self, key: Key) -> None:
        body = self._store.object(key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._forget(key)  # its children go by their ownerReferences
            return
        started = time.monotonic()
        deployment = self._deployment(key, body)
        seen = await self._observe(key, deployment)
        now = self._clock()
        memory = self._memory(key, body, seen, now)
        self._time_starts(key, seen, memory)
        memory.history, signals = measure(seen, memory.history, now)
        budget = self._budgets.cap(deployment, seen, now)
        decision = decide(look(deployment.scaling, seen, signals, memory.history, now, budget=budget))
        if deployment.scaling.mode is not Mode.SHADOW:
            self._budgets.ordered(key, decision.replicas)
        seen = replace(seen, standby_room=self._budgets.standby_room(key))
        memory.history = remembered(memory.history, decision, now)
        self._pace.tell(key, is_alert=is_urgent(seen, decision))
        progress, news = self._advance(key, deployment, seen, memory, decision)
        planned = plan(
            deployment,
            self._image,
            seen,
            decision,
            progress=progress,
            said=memory.said,
            now=now,
            gate_keys=self._gate_keys,
        )
        self._budgets.ordered(key, standby=ordered(planned, Role.STANDBY), shadows=ordered(planned, Role.SHADOW))
        await self._act(deployment, [*news, *planned], seen, memory, now)
        memory.said = decision.reason
        claims = await self._claims(body, deployment, now)
        why = routing.trouble(deployment, self._router, memory.no_routing)
        seen = replace(seen, refused=memory.refused, no_routing=why)
        tick = Tick(deployment, self._image, seen, decision, memory.history, now, claims, progress, memory.ledger)
        await self._write_status(body, tick, memory)
        self._count_reversals(key, decision, memory)
        self._metrics.reconciles.labels(series.Result.DONE).inc()
        self._metrics.reconcile_seconds.observe(time.monotonic() - started)

    def resign(self) -> None:
        """Another leads from now on: should we lead again, the status tells what was learned meanwhile."""
        for key in self._memories:
            self._golden.forget(key)
            self._metrics.forget(*key)  # else two operators would tell of it, and one of them what was
        self._memories.clear()

    async def announce_failure(self, key: Key, error: Exception) -> None:
        """What went wrong, where `kubectl describe` shows it. That another leads by now is no failure."""
        if isinstance(error, LeaseLost):
            return
        self._metrics.reconciles.labels(series.Result.of(error)).inc()
        body = self._store.object(key)
        if body is None:
            return
        self._metrics.reconcile_failures.labels(*key).inc()
        reason = Announcement.INVALID_SPEC if isinstance(error, InvalidSpec) else Announcement.RECONCILE_FAILED
        target = Target(*key, body["metadata"]["uid"])
        message = f"{type(error).__name__}: {error}"
        await self._recorder.record(target, reason, message, now=self._clock(), is_warning=True)

    def _deployment(self, key: Key, body: Mapping[str, Any]) -> InferenceDeployment:
        """The manifest, read again only when it changed. Raises InvalidSpec."""
        metadata, spec = body["metadata"], body.get("spec", {})
        if known := self._parsed.get(key):
            before, deployment = known
            is_same = deployment.uid == metadata["uid"] and deployment.generation == metadata.get("generation", 0)
            if is_same and before == spec:
                return deployment
        deployment = InferenceDeployment.from_body(body)
        self._parsed[key] = spec, deployment
        return deployment

    async def _observe(self, key: Key, deployment: InferenceDeployment) -> Observed:
        pods, own = self._store.pods(key), self._store.routers(key)
        shared = {one: self._store.routers((one.namespace, one.label)) for one in deployment.routing.model_routers}
        of_routers = routers.metrics_urls([*own, *chain.from_iterable(shared.values())])
        readings, held = await self._asked(metrics_urls(pods), of_routers)
        known = {pod["metadata"]["uid"]: self._facts.get(key, {}).get(pod["metadata"]["uid"]) for pod in pods}
        around = Around.told(readings, known, self._store.nodes_of(pods))
        self._facts[key] = around.facts
        seen = observed(pods, around)
        self._metrics.scrape_failures.labels(*key).inc(sum(pod.sample is None for pod in seen.ready))
        memory = self._memories.get(key)
        return replace(
            seen,
            revisions=recorded(self._store.revisions(key), deployment.uid),
            refused=memory.refused if memory else None,
            routers=(
                *routers.states(own, held),
                *routers.states_of_groups("/".join(key), shared, held),
            ),
        )

    async def _asked(
        self, pods: Mapping[str, str], of_routers: Mapping[str, str]
    ) -> tuple[Mapping[str, Reading | None], Mapping[str, RouterReading | None]]:
        """Both at once, where there are routers: neither waits for who does not answer among the others."""
        if not of_routers:
            return await self._scraper.scrape(pods), {}
        return await asyncio.gather(self._scraper.scrape(pods), self._router_scraper.scrape(of_routers))

    def _advance(
        self, key: Key, deployment: InferenceDeployment, seen: Observed, memory: Memory, decision: Decision
    ) -> tuple[Progress, list[Action]]:
        """The rollout's next step, and the events that tell of it."""
        before = memory.progress
        scores = self._golden.scores(key, questions(deployment, seen, before))
        full = is_full(seen, decision.situation.budget)
        memory.progress = rollouts.advance(deployment, seen, before, scores, self._clock(), full=full)
        if before and before.step != memory.progress.step:
            self._metrics.rollout_steps.labels(*key, *memory.progress.step).inc()
        return memory.progress, rollout_news.news(before, memory.progress)

    async def _act(
        self, deployment: InferenceDeployment, actions: list[Action], seen: Observed, memory: Memory, now: float
    ) -> None:
        is_touched = self._standing.is_touched(deployment.namespace, deployment.name)
        is_due = memory.service_generation != deployment.generation or is_touched
        if is_due:
            actions.insert(0, ApplyService(manifests.service(deployment)))
            actions.insert(0, ApplyBudget(manifests.disruption_budget(deployment)))
        is_due = is_due or (memory.no_routing is not None and now - memory.routed_at >= LOOK)
        way = routing.plan(deployment, self._router, self._standing.children(deployment.uid), is_due=is_due)
        actions += way
        target = Target(deployment.namespace, deployment.name, deployment.uid)
        before, generation = memory.refusal, deployment.generation
        waits = wants_pods(actions) and before is not None and before.holds(seen, generation, now)
        outcome = await apply(self._hands, target, without_pods(actions) if waits else actions, now)
        if outcome.refused and not before:  # it is tried again and again, and told once
            await self._recorder.record(target, Announcement.POD_REFUSED, outcome.refused, now=now, is_warning=True)
        if not waits:
            memory.refusal = refused(before, outcome.refused, seen, generation, now) if outcome.refused else None
        for child in outcome.children:
            self._put[child["kind"]](child)
        for action in way:
            if isinstance(action, DeleteRouting):
                self._standing.removed(target.namespace, target.uid, Child(action.kind, action.name, action.uid))
        if outcome.no_routing and outcome.no_routing != memory.no_routing:
            await self._recorder.record(
                target, Announcement.ROUTING_REFUSED, outcome.no_routing, now=now, is_warning=True
            )
        if is_due or outcome.no_routing:
            memory.no_routing, memory.routed_at = outcome.no_routing, now
        memory.service_generation = deployment.generation
        cut_off = leaving.cut_off(seen, deployment.drain_timeout, now)
        self._metrics.drain_timeouts.labels(deployment.namespace, deployment.name).inc(len(cut_off - memory.cut_off))
        memory.cut_off = cut_off

    async def _claims(self, body: Mapping[str, Any], deployment: InferenceDeployment, now: float) -> Claims:
        """What others claim of this object; an event tells of a new conflict."""
        claims = self._autoscalers.claims(body, self._store.pods((deployment.namespace, deployment.name)))
        found = conflicts.condition(deployment.scaling.mode, claims)
        news = conflicts.news(found, body.get("status", {}).get("conditions", ()))
        target = Target(deployment.namespace, deployment.name, deployment.uid)
        await apply(self._hands, target, [*news], now)
        return claims

    async def _write_status(self, body: Mapping[str, Any], tick: Tick, memory: Memory) -> None:
        before = body.get("status", {})
        after = status(tick, before)
        series.tell(self._metrics, tick, after["conditions"])
        if is_due(after, before, memory.status_at, tick.now):
            memory.status_at = tick.now
            path = kube.objects(tick.deployment.namespace, tick.deployment.name, "status")
            written = await self._api.merge(path, {"metadata": {"uid": tick.deployment.uid}, "status": after})
            self._store.put_object(written)

    def _time_starts(self, key: Key, seen: Observed, memory: Memory) -> None:
        memory.ledger, ended = memory.ledger.seen(seen)
        for start in ended:
            for step, seconds in start.seconds:
                self._metrics.startup_seconds.labels(*key, str(step)).observe(seconds)

    def _memory(self, key: Key, body: Mapping[str, Any], seen: Observed, now: float) -> Memory:
        """A new object of the same name starts afresh; after a restart, the status tells what was learned."""
        uid = body["metadata"]["uid"]
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            told = body.get("status", {})
            history = History.restored(told, len(seen.live), now)
            memory = Memory(uid, history, progress=restored(told.get("rollout", {})))
            self._memories[key] = memory
        return memory

    def _count_reversals(self, key: Key, decision: Decision, memory: Memory) -> None:
        change = decision.replicas - decision.current
        direction = (change > 0) - (change < 0)
        if direction and memory.direction and direction != memory.direction:
            self._metrics.reversals.labels(*key).inc()
        memory.direction = direction or memory.direction

    def _forget(self, key: Key) -> None:
        self._budgets.forget(key)
        self._standing.forget(*key)
        self._pace.tell(key, is_alert=False)
        memory = self._memories.pop(key, None)
        self._facts.pop(key, None)
        self._parsed.pop(key, None)
        self._golden.forget(key)
        self._metrics.forget(*key)
        if memory:
            self._recorder.forget(memory.uid)
