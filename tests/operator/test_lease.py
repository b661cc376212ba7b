"""Leader election at a real API server: one leads; a clean exit hands over at once, a crash after the duration."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import LocalCluster
from cluster.waiting import HANG
from headrace_operator.errors import LeaseLost
from headrace_operator.kube import ApiUnavailable, Kube, KubeError, configuration, events
from headrace_operator.lease import Lease, Terms
from headrace_operator.settings import Settings

pytestmark = pytest.mark.cluster
# Duration and renewal by a clock that a test moves; the pauses between two tries are real, and short.
QUICK = Terms(duration=2.0, renew_within=1.5, renew=0.05, attempt=HANG, retry=0.02)


class Clock:
    """Stands still until a test moves it: how long the machine takes says nothing."""

    now = 100.0  # s

    def __call__(self) -> float:
        return self.now


class Counted:
    """The real API, and the names of what it was asked."""

    def __init__(self, api: Kube) -> None:
        self._api = api
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.names.append(name)
        return getattr(self._api, name)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG):
        while not is_true():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("lease"), nodes=()) as running:
        yield running


def settings(kubeconfig: Path) -> Settings:
    return Settings((), "image", "lease", "default", "me", 1.0, "127.0.0.1", 0, Path(), kubeconfig)


@pytest.fixture
async def api(cluster: LocalCluster) -> AsyncIterator[Kube]:
    async with Kube(await configuration(settings(cluster.kubeconfig), {})) as kube:
        yield kube


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(api: Any, name: str, identity: str, clock: Clock) -> Lease:
    return Lease(api, ("default", name), identity, clock=clock, wall_clock=lambda: 1.8e9 + clock.now, terms=QUICK)


async def holder(api: Kube, name: str) -> str:
    found = await api.get(f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}")
    return str(found["spec"]["holderIdentity"])


async def test_one_of_two_leads_and_a_release_hands_over_at_once(api: Kube, clock: Clock) -> None:
    first, second = candidate(api, "clean", "one", clock), candidate(api, "clean", "two", clock)
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    for _ in range(4):
        clock.now += QUICK.duration / 2
        await until(lambda: first._renewed_at == second._seen[1] == clock.now)
    assert not waiting.done(), "a Lease that is renewed is not taken"
    holding.cancel()
    await first.release()
    await asyncio.wait_for(waiting, HANG)  # though no time passes any more
    assert await holder(api, "clean") == "two"


async def test_a_holder_that_is_silent_loses_it_after_its_duration(api: Kube, clock: Clock) -> None:
    first, calls = candidate(api, "crash", "one", clock), Counted(api)
    await first.acquire()  # and is never heard of again
    second = candidate(calls, "crash", "two", clock)
    waiting = asyncio.create_task(second.acquire())
    await until(lambda: calls.names.count("get") > 1)
    clock.now += QUICK.duration - 0.1
    looks = calls.names.count("get")
    await until(lambda: calls.names.count("get") > looks + 1)
    assert not waiting.done()
    clock.now += 0.1
    await asyncio.wait_for(waiting, HANG)
    assert await holder(api, "crash") == "two"


async def test_a_holder_that_cannot_renew_stops_before_another_may_start(api: Kube, clock: Clock) -> None:
    class Cut:
        """The real API until the wire is cut."""

        is_cut = False
        refusals = 0

        def __getattr__(self, name: str) -> Any:
            if self.is_cut:
                self.refusals += 1
                raise ApiUnavailable(503, "cut")
            return getattr(api, name)

    wire = Cut()
    first = candidate(wire, "cut", "one", clock)
    await first.acquire()
    wire.is_cut = True
    holding = asyncio.create_task(first.hold())
    clock.now += QUICK.renew_within - 0.1
    await until(lambda: wire.refusals > 3)
    assert not holding.done()
    clock.now += 0.1
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(holding, HANG)
    for terms in (QUICK, Terms()):
        assert terms.renew_within < terms.duration


def test_a_leader_that_crashed_is_replaced_within_fifteen_seconds() -> None:
    """The standby saw its last sign of life a look late, and looks again a look after it expired."""
    assert Terms().duration + 2 * Terms().retry <= 15.0


async def test_a_lease_that_another_took_is_not_renewed(api: Kube, clock: Clock) -> None:
    first = candidate(api, "stolen", "one", clock)
    await first.acquire()
    await api.merge(
        "/apis/coordination.k8s.io/v1/namespaces/default/leases/stolen", {"spec": {"holderIdentity": "two"}}
    )
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(first.hold(), HANG)
    assert await holder(api, "stolen") == "two"


async def test_a_process_that_was_stopped_may_not_write_when_it_wakes(api: Kube, clock: Clock) -> None:
    lease = candidate(api, "stopped", "one", clock)
    await lease.acquire()
    leading = api.guarded(lease.check)
    event = {"metadata": {"name": "stopped", "namespace": "default"}, "involvedObject": {"namespace": "default"}}
    clock.now += QUICK.renew_within - 0.1
    await leading.create(events("default"), event)
    clock.now += 0.1
    assert not lease.is_held
    with pytest.raises(LeaseLost):
        await leading.merge(events("default", "stopped"), {"count": 2})
    assert "count" not in await leading.get(events("default", "stopped"))  # and reading goes on
    with pytest.raises(LeaseLost):
        await lease.hold()


async def test_a_renewal_is_one_call(api: Kube, clock: Clock) -> None:
    calls, loop = Counted(api), asyncio.get_running_loop()
    lease = candidate(calls, "counted", "one", clock)
    await lease.acquire()
    calls.names.clear()
    began, renewals = loop.time(), 4
    holding = asyncio.create_task(lease.hold())
    await until(lambda: len(calls.names) >= renewals)
    assert loop.time() - began >= renewals * QUICK.renew
    assert set(calls.names) == {"replace"}
    holding.cancel()


async def test_an_api_server_that_refuses_us_for_a_moment_ends_nothing(api: Kube, clock: Clock) -> None:
    """One that has just started answers 403 until it has read the roles."""

    class Starting:
        refusals = 3

        def __getattr__(self, name: str) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise KubeError(403, "forbidden")
            return getattr(api, name)

    lease = candidate(Starting(), "refused", "one", clock)
    await asyncio.wait_for(lease.acquire(), HANG)
    assert lease.is_held
