"""Actions become calls in order, each safe to repeat; events are counted and limited. A recorder plays the API."""

from typing import Any

import aiohttp
import pytest
from headrace_operator.act.apply import Hands, Outcome, Target, apply
from headrace_operator.act.drainer import Drainer
from headrace_operator.act.events import BURST, Recorder
from headrace_operator.decide.actions import (
    Announce,
    ApplyRouting,
    ApplyService,
    CreatePod,
    DeletePod,
    Demote,
    Promote,
    Unroute,
)
from headrace_operator.decide.reasons import Reason
from headrace_operator.kube import ApiUnavailable, KubeError
from headrace_operator.metrics import OperatorMetrics
from prometheus_client import CollectorRegistry

CHAT = Target("default", "chat", "uid-1")
Call = tuple[str, str, Any]


class RecordedKube:
    """Remembers what it was asked, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refuse: dict[str, int] = {}  # method -> HTTP status
        self.words = "refused"

    async def _call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.calls.append((method, path, body))
        if status := self.refuse.get(method):
            raise (ApiUnavailable if status >= 500 else KubeError)(status, self.words)
        return {"metadata": {"name": path.rsplit("/", 1)[-1]}}

    async def apply(self, path: str, body: Any) -> dict[str, Any]:
        return await self._call("apply", path, body)

    async def create(self, path: str, body: Any) -> dict[str, Any]:
        return await self._call("create", path, body)

    async def merge(self, path: str, body: Any) -> dict[str, Any]:
        return await self._call("merge", path, body)

    async def delete(self, path: str, uid: str) -> None:
        await self._call("delete", path, uid)

    def of(self, *methods: str) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.calls if method in methods]


@pytest.fixture
def kube() -> RecordedKube:
    return RecordedKube()


@pytest.fixture
def metrics() -> OperatorMetrics:
    return OperatorMetrics(CollectorRegistry())


@pytest.fixture
def recorder(kube: RecordedKube, metrics: OperatorMetrics) -> Recorder:
    return Recorder(kube, metrics, "operator-0")  # type: ignore[arg-type]


async def act(kube: RecordedKube, recorder: Recorder, *actions: Any) -> Outcome:
    async with aiohttp.ClientSession() as session:
        hands = Hands(kube, recorder, Drainer(session, timeout=2.0))  # type: ignore[arg-type]
        return await apply(hands, CHAT, list(actions), now=1000.0)


async def test_actions_are_applied_in_their_order(kube: RecordedKube, recorder: Recorder) -> None:
    outcome = await act(
        kube, recorder,
        ApplyService({"kind": "Service", "metadata": {"name": "chat"}}),
        Unroute("chat-a-1", "u1", "LoadFell"),
        DeletePod("chat-a-2", "u2", "drains"),
        CreatePod({"metadata": {"name": "chat-a-3"}}),
    )  # fmt: skip
    assert kube.of("apply", "merge", "delete") == [
        ("apply", "/api/v1/namespaces/default/services/chat"),
        ("merge", "/api/v1/namespaces/default/pods/chat-a-1"),
        ("delete", "/api/v1/namespaces/default/pods/chat-a-2"),
        ("apply", "/api/v1/namespaces/default/pods/chat-a-3"),
    ]
    assert [child["metadata"]["name"] for child in outcome.children] == ["chat", "chat-a-1", "chat-a-3"]


async def test_a_pod_is_changed_only_if_it_is_the_one_that_was_meant(kube: RecordedKube, recorder: Recorder) -> None:
    await act(kube, recorder, Unroute("chat-a-1", "u1", "LoadFell"), DeletePod("chat-a-2", "u2", "drains"))
    (unrouted,) = [body for method, _, body in kube.calls if method == "merge"]
    assert unrouted["metadata"]["uid"] == "u1"
    assert unrouted["metadata"]["labels"] == {"headrace.dev/routable": "false"}
    assert [uid for method, _, uid in kube.calls if method == "delete"] == ["u2"]


@pytest.mark.parametrize("status", [404, 409])
async def test_a_pod_that_is_gone_already_is_what_we_wanted(
    kube: RecordedKube, recorder: Recorder, status: int
) -> None:
    kube.refuse["merge"] = status
    assert await act(kube, recorder, Unroute("chat-a-1", "u1", "LoadFell")) == Outcome()


async def test_any_other_refusal_stops_the_plan(kube: RecordedKube, recorder: Recorder) -> None:
    kube.refuse["apply"] = 403
    with pytest.raises(KubeError, match="403"):
        await act(kube, recorder, CreatePod({"metadata": {"name": "x"}}), DeletePod("chat-a-2", "u2", "drains"))
    assert kube.of("delete") == []


async def test_a_way_that_cannot_be_made_is_a_fact_and_no_failure(kube: RecordedKube, recorder: Recorder) -> None:
    kube.refuse["apply"] = 403
    binding = ApplyRouting({"kind": "RoleBinding", "metadata": {"name": "chat-router"}})
    outcome = await act(kube, recorder, binding, DeletePod("chat-a-2", "u2", "drains"))
    assert outcome.no_routing is not None
    assert outcome.no_routing.startswith("RoleBinding chat-router cannot be written: 403")
    assert kube.of("delete"), "replicas are cared for all the same"


async def test_an_api_server_that_fails_is_no_refusal(kube: RecordedKube, recorder: Recorder) -> None:
    kube.refuse["apply"] = 500
    with pytest.raises(KubeError, match="500"):
        await act(kube, recorder, ApplyRouting({"kind": "RoleBinding", "metadata": {"name": "chat-router"}}))


async def test_a_promoted_standby_is_routed_and_a_demoted_replica_is_not(
    kube: RecordedKube, recorder: Recorder
) -> None:
    outcome = await act(
        kube, recorder, Promote("chat-a-1", "u1", "stands in"), Demote("chat-a-2", "u2", "not ready"),
    )  # fmt: skip
    patches = {path.rsplit("/", 1)[1]: body["metadata"] for method, path, body in kube.calls if method == "merge"}
    assert patches == {
        "chat-a-1": {"uid": "u1", "labels": {"headrace.dev/routable": "true", "headrace.dev/role": "replica"}},
        "chat-a-2": {"uid": "u2", "labels": {"headrace.dev/routable": "false", "headrace.dev/role": "standby"}},
    }
    assert [pod["metadata"]["name"] for pod in outcome.children] == ["chat-a-1", "chat-a-2"]
    assert [body["reason"] for method, _, body in kube.calls if method == "create"] == ["PodPromoted", "PodDemoted"]


async def test_a_quota_that_refuses_a_pod_is_a_fact_and_no_failure(kube: RecordedKube, recorder: Recorder) -> None:
    kube.refuse["apply"] = 403
    kube.words = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    creations = [CreatePod({"metadata": {"name": name}}) for name in "xyz"]
    outcome = await act(kube, recorder, *creations, DeletePod("chat-a-2", "u2", "lost"))
    assert outcome.refused == f"403: {kube.words}"
    assert len(kube.of("apply")) == 1
    assert len(kube.of("delete")) == 1


async def test_an_event_carries_reason_numbers_and_object(kube: RecordedKube, recorder: Recorder) -> None:
    await act(kube, recorder, Announce(Reason.INSUFFICIENT_GPU, "2 -> 3 replicas: no room", is_warning=True))
    ((_, path, event),) = kube.calls
    assert path == "/api/v1/namespaces/default/events"
    assert (event["reason"], event["message"], event["type"]) == (
        "InsufficientGPU",
        "2 -> 3 replicas: no room",
        "Warning",
    )
    assert (event["involvedObject"]["kind"], event["involvedObject"]["uid"]) == ("InferenceDeployment", "uid-1")


async def test_a_repeated_event_is_counted_and_not_written_anew(kube: RecordedKube, recorder: Recorder) -> None:
    for moment in range(3):
        await recorder.record(CHAT, Reason.STEADY, "same", now=1000.0 + moment)
    await recorder.record(CHAT, Reason.STEADY, "other", now=1003.0)
    assert [method for method, _, _ in kube.calls] == ["create", "merge", "merge", "create"]
    assert kube.calls[2][2]["count"] == 3


@pytest.mark.parametrize("lost", ["create", "merge"])
async def test_an_event_that_was_lost_is_written_when_it_comes_again(
    kube: RecordedKube, recorder: Recorder, lost: str
) -> None:
    if lost == "merge":
        await recorder.record(CHAT, Reason.STEADY, "same", now=1000.0)
    kube.refuse[lost] = 500
    await recorder.record(CHAT, Reason.STEADY, "same", now=1001.0)
    kube.refuse.clear()
    kube.calls.clear()
    await recorder.record(CHAT, Reason.STEADY, "same", now=1002.0)
    assert [(method, body["count"]) for method, _, body in kube.calls] == [("create", 1)]


async def test_an_object_cannot_flood_the_api_server(
    kube: RecordedKube, recorder: Recorder, metrics: OperatorMetrics
) -> None:
    for number in range(int(BURST) + 10):
        await recorder.record(CHAT, Reason.STEADY, f"news {number}", now=1000.0)
    assert len(kube.calls) == BURST
    assert metrics.events_dropped.labels("default", "chat")._value.get() == 10
    await recorder.record(CHAT, Reason.STEADY, "later", now=1300.0)
    assert len(kube.calls) == BURST + 1


async def test_a_lost_event_does_not_stop_the_plan(kube: RecordedKube, recorder: Recorder) -> None:
    kube.refuse["create"] = 500
    await act(kube, recorder, Announce(Reason.STEADY, "x"), DeletePod("chat-a-2", "u2", "drains"))
    assert kube.of("delete")
