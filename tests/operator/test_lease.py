"""Leader election at a real API server: one leads; a clean exit hands over at once, a crash after the duration."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cluster import LocalCluster
from headrace_operator.errors import LeaseLost
from headrace_operator.kube import ApiUnavailable, Kube, KubeError, configuration, events
from headrace_operator.lease import Lease, Terms
from headrace_operator.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
QUICK = Terms(duration=2.0, renew_within=1.5, renew=0.2, attempt=1.0, retry=0.1)


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


def candidate(api: Any, name: str, identity: str) -> Lease:
    return Lease(
        api, ("default", name), identity, clock=time.monotonic, wall_clock=lambda: 1.8e9 + time.monotonic(), terms=QUICK
    )


async def holder(api: Kube, name: str) -> str:
    found = await api.get(f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}")
    return str(found["spec"]["holderIdentity"])


async def test_one_of_two_leads_and_a_release_hands_over_at_once(api: Kube) -> None:
    first, second = candidate(api, "clean", "one"), candidate(api, "clean", "two")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(QUICK.duration + 1)
    assert not waiting.done(), "a Lease that is renewed is not taken"
    holding.cancel()
    await first.release()
    await asyncio.wait_for(waiting, QUICK.duration / 2)
    assert await holder(api, "clean") == "two"


async def test_a_holder_that_is_silent_loses_it_after_its_duration(api: Kube) -> None:
    first, second = candidate(api, "crash", "one"), candidate(api, "crash", "two")
    await first.acquire()  # and is never heard of again
    began = time.monotonic()
    await asyncio.wait_for(second.acquire(), 30)
    assert time.monotonic() - began >= QUICK.duration
    assert await holder(api, "crash") == "two"


async def test_a_holder_that_cannot_renew_stops_before_another_may_start(api: Kube) -> None:
    class Cut:
        """The real API until the wire is cut."""

        is_cut = False

        def __getattr__(self, name: str) -> Any:
            if self.is_cut:
                raise ApiUnavailable(503, "cut")
            return getattr(api, name)

    wire = Cut()
    first = candidate(wire, "cut", "one")
    began = time.monotonic()
    await first.acquire()
    wire.is_cut = True
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(first.hold(), 30)
    assert time.monotonic() - began >= QUICK.renew_within
    assert QUICK.renew_within < QUICK.duration


async def test_a_lease_that_another_took_is_not_renewed(api: Kube) -> None:
    first = candidate(api, "stolen", "one")
    await first.acquire()
    await api.merge(
        "/apis/coordination.k8s.io/v1/namespaces/default/leases/stolen", {"spec": {"holderIdentity": "two"}}
    )
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(first.hold(), 30)
    assert await holder(api, "stolen") == "two"


async def test_a_process_that_was_stopped_may_not_write_when_it_wakes(api: Kube) -> None:
    now = [100.0]
    lease = Lease(api, ("default", "stopped"), "one", clock=lambda: now[0], wall_clock=lambda: 1.8e9, terms=QUICK)
    await lease.acquire()
    leading = api.guarded(lease.check)
    event = {"metadata": {"name": "stopped", "namespace": "default"}, "involvedObject": {"namespace": "default"}}
    now[0] += QUICK.renew_within - 0.1
    await leading.create(events("default"), event)
    now[0] += 0.1
    assert not lease.is_held
    with pytest.raises(LeaseLost):
        await leading.merge(events("default", "stopped"), {"count": 2})
    assert "count" not in await leading.get(events("default", "stopped"))  # and reading goes on
    with pytest.raises(LeaseLost):
        await lease.hold()


async def test_a_renewal_is_one_call(api: Kube) -> None:
    class Counted:
        calls: ClassVar[list[str]] = []

        def __getattr__(self, name: str) -> Any:
            self.calls.append(name)
            return getattr(api, name)

    lease = candidate(Counted(), "counted", "one")
    await lease.acquire()
    Counted.calls.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lease.hold(), 1.0)
    assert set(Counted.calls) == {"replace"}
    assert 2 <= len(Counted.calls) <= 5


async def test_an_api_server_that_refuses_us_for_a_moment_ends_nothing(api: Kube) -> None:
    """One that has just started answers 403 until it has read the roles."""

    class Starting:
        refusals = 3

        def __getattr__(self, name: str) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise KubeError(403, "forbidden")
            return getattr(api, name)

    lease = candidate(Starting(), "refused", "one")
    await asyncio.wait_for(lease.acquire(), 10)
    assert lease.is_held
