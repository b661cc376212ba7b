"""What the page is told, as values: the worst first, each thing once, unknown never as zero, and words as words."""

import asyncio
import json
from argparse import ArgumentTypeError
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from headrace_operator.decide.conditions import timestamp
from headrace_operator.tools.ui import page
from headrace_operator.tools.ui.address import listen
from headrace_operator.tools.ui.looks import KEPT, Looks
from headrace_operator.tools.ui.readings import number, seconds
from headrace_operator.tools.ui.timeline import timeline
from headrace_operator.tools.ui.values import Look
from headrace_operator.tools.ui.verdict import SILENCE, Level, verdict
from headrace_operator.tools.ui.web import application
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW
from written import status_of

Body = dict[str, Any]


def body(name: str = "chat", status: Body | None = None, **autoscaling: Any) -> Body:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"model": {"source": "pvc://models/llama"}, "autoscaling": autoscaling},
        "status": status or {},
    }


def look(*objects: Body, **more: Any) -> Look:
    return Look(NOW, 1, "https://127.0.0.1:6443", None, 2.0, objects, **more)


def decision(at: float, before: int, after: int, reason: str = "LoadRose", message: str = "more") -> Body:
    return {"at": timestamp(at), "from": before, "to": after, "reason": reason, "message": message}


def event(at: float, reason: str, message: str = "more", **more: Any) -> Body:
    metadata = {"creationTimestamp": timestamp(at - 60)}
    return {"metadata": metadata, "reason": reason, "message": message, "lastTimestamp": timestamp(at), **more}


def test_a_scaling_and_its_event_are_told_once_and_the_newest_first() -> None:
    told = timeline(
        {"status": {"decisions": [decision(NOW, 1, 3), decision(NOW + 60, 3, 4)]}},
        [
            event(NOW + 1, "LoadRose"),
            event(NOW + 30, "PodCreated", type="Warning", count=2),
            event(NOW + 90, "LoadRose", "again, much later"),
        ],
    )
    assert [(entry["kind"], entry["at"]) for entry in told] == [
        ("event", NOW + 90), ("scaling", NOW + 60), ("warning", NOW + 30), ("scaling", NOW),
    ]  # fmt: skip
    assert told[2]["count"] == 2


@pytest.mark.parametrize(
    ("times", "at"),
    [
        pytest.param({"series": {"lastObservedTime": timestamp(NOW)}, "lastTimestamp": None}, NOW, id="series"),
        pytest.param({"lastTimestamp": None, "eventTime": timestamp(NOW + 1)}, NOW + 1, id="events.k8s.io"),
        pytest.param({"lastTimestamp": None}, NOW - 60, id="only made at"),
    ],
)
def test_an_event_has_a_time_whoever_recorded_it(times: Body, at: float) -> None:
    (told,) = timeline({}, [{**event(NOW, "PodCreated"), **times}])
    assert told["at"] == at


def condition(kind: str, status: str, reason: str = "Because") -> Body:
    return {"type": kind, "status": status, "reason": reason, "message": f"{kind} is {status}"}


@pytest.mark.parametrize(
    ("conditions", "wait", "level", "says"),
    [
        pytest.param([], 0.1, Level.GOOD, "All promises hold", id="well"),
        pytest.param([], None, Level.GOOD, "All promises hold", id="no wait measured is no late one"),
        pytest.param([], 0.6, Level.ATTENTION, "target is 0.5 s", id="late"),
        pytest.param([condition("Ready", "False", "Loading")], 0.1, Level.STARTING, "Loading", id="on its way"),
        pytest.param([condition("Ready", "False", "CrashLooping")], 0.1, Level.TROUBLE, "CrashLooping", id="broken"),
        pytest.param(
            [condition("Ready", "False", "Loading"), condition("Degraded", "True")], 0.6, Level.TROUBLE, "Degraded",
            id="the worst counts",
        ),
        pytest.param([condition("ModelValid", "Unknown")], 0.1, Level.GOOD, "", id="unknown is not false"),
        pytest.param([condition("ScalingLimited", "True")], 0.1, Level.ATTENTION, "ScalingLimited", id="limited"),
        pytest.param([condition("Progressing", "False", "RolloutComplete")], 0.1, Level.GOOD, "", id="rolled out"),
        pytest.param([condition("Progressing", "False", "CanaryRolledBack")], 0.1, Level.ATTENTION, "Back", id="back"),
    ],
)  # fmt: skip
def test_one_word_says_the_worst(conditions: list[Body], wait: float | None, level: Level, says: str) -> None:
    status = {"conditions": conditions, "lastDecision": {"at": timestamp(NOW)}}
    judged = verdict(status, wait, 0.5, NOW)
    assert judged.level is level
    assert says in judged.text


def test_an_operator_that_says_nothing_is_noticed() -> None:
    assert verdict({}, None, 0.5, NOW).level is Level.UNKNOWN
    status = {"lastDecision": {"at": timestamp(NOW)}}
    assert verdict(status, 0.1, 0.5, NOW + SILENCE).level is Level.GOOD
    silent = verdict(status, 0.1, 0.5, NOW + SILENCE + 60)
    assert (silent.level, "16 minutes" in silent.text) == (Level.ATTENTION, True)


@pytest.mark.parametrize(("text", "is_worth"), [("120ms", 0.12), ("1m30s", 90.0), ("unknown", None), (None, None)])
def test_what_is_not_known_is_not_zero(text: str | None, is_worth: float | None) -> None:
    assert seconds(text) == is_worth
    assert number(None if text is None else "unknown") is None


def test_the_overview_has_the_worst_first_and_sums_what_is_known() -> None:
    status = {**status_of(4, load=0.6), "tokensPerSecond": "418", "queueWaitP95": "120ms"}
    late = {**status_of(2, load=0.6), "queueWaitP95": "2s"}
    rows = page.overview(
        look(
            body("a", status, targets={"queueWaitP95": "500ms"}),
            body("b", late, targets={"queueWaitP95": "500ms"}),
            body("c"),
        )
    )
    assert [(row["name"], row["level"]) for row in rows["deployments"]] == [
        ("b", "attention"), ("c", "unknown"), ("a", "good"),
    ]  # fmt: skip
    summary = rows["summary"]
    assert (summary["deployments"], summary["ready"], summary["late"], summary["measured"]) == (3, 6, 1, 2)
    assert page.overview(look(body("c")))["summary"]["tokensPerSecond"] is None


@given(st.text(), st.text())
def test_whatever_is_written_leaves_as_json_and_comes_back_as_it_was(name: str, message: str) -> None:
    told = page.detail(look(body(name, {"lastDecision": {"at": timestamp(NOW), "message": message}})), "default", name)
    assert told is not None
    back = json.loads(json.dumps(told))["deployment"]
    assert (back["name"], back["message"]) == (name, message)


@given(
    st.dictionaries(
        st.sampled_from(["headrace.dev/role", "headrace.dev/ordinal", "headrace.dev/routable"]), st.text(max_size=5)
    )
)
def test_a_pod_with_odd_labels_hides_nobody(labels: dict[str, str]) -> None:
    metadata = {
        "name": "odd",
        "namespace": "default",
        "uid": "x",
        "creationTimestamp": timestamp(NOW),
        "labels": labels,
    }
    seen = look(body(), pods={("default", "chat"): [{"metadata": metadata, "spec": {}, "status": {}}]})
    told = page.detail(seen, "default", "chat")
    assert told is not None
    (pod,) = told["deployment"]["pods"]
    assert pod["name"] == "odd"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
FIELDS = (
    "lastDecision",
    "lastChange",
    "conditions",
    "decisions",
    "podPhases",
    "queueWaitP95",
    "tokensPerSecond",
    "rollout",
)


@given(st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1))
def test_a_status_that_makes_no_sense_hides_no_other_deployment(status: Body) -> None:
    seen = look(body("odd", status), body("chat", status_of(4, load=0.95)))
    rows = {row["name"]: row for row in page.overview(seen)["deployments"]}
    assert rows["chat"]["ready"] == 4
    assert rows["odd"]["namespace"] == "default"
    told = page.detail(seen, "default", "odd")
    assert told is not None
    assert told["deployment"]["name"] == "odd"


def test_what_cannot_be_read_is_said() -> None:
    (row,) = page.overview(look(body("odd", {"lastDecision": {"at": "yesterday"}})))["deployments"]
    assert row["level"] == "unknown"
    assert "cannot read its status" in row["verdict"]


class _Lists:
    """The API server's lists, as they are at each look."""

    def __init__(self) -> None:
        self.objects: list[Body] = []

    async def pages(self, path: str, **_: str) -> Any:
        yield {"items": self.objects if "inferencedeployments" in path else [], "metadata": {}}


async def test_the_history_is_bounded_and_goes_with_its_deployment() -> None:
    now = [NOW]
    lists = _Lists()
    looks = Looks(lists, None, "server", lambda: now[0])  # type: ignore[arg-type]
    for _ in range(2000):
        lists.objects = [body("a", {"readyReplicas": 1}), body("b")]
        await looks.look()
        now[0] += 2.0
    points = looks.latest.history["uid-a"]
    assert len(points) == KEPT
    assert all(later.at - earlier.at >= 5 for earlier, later in pairwise(points))
    lists.objects = [body("a", {"readyReplicas": 2})]
    await looks.look()
    assert looks.latest.history["uid-a"][-1].ready == 2, "a change of replicas is noted at once"
    assert "uid-b" not in looks.latest.history


@pytest.fixture
async def client() -> Any:
    looks = Looks(_Lists(), None, "server", lambda: NOW)  # type: ignore[arg-type]
    async with TestClient(TestServer(application(looks, "127.0.0.1"))) as started:
        yield started


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8899", 200), ("[::1]:8899", 200), ("evil.example", 421), ("127.0.0.1.evil", 421)],
)
async def test_only_our_own_names_are_answered(client: Any, host: str, status: int) -> None:
    answer = await client.get("/api/overview", headers={"Host": host})
    assert answer.status == status


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/overview", "/api/deployments/a/b", "/nowhere"])
async def test_every_answer_has_the_policy(client: Any, path: str) -> None:
    answer = await client.get(path)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/static/../web.py", "/static/%2e%2e/web.py", "/static/", "/static/..%2fweb.py"])
async def test_only_the_pages_own_files_are_served(client: Any, path: str) -> None:
    assert (await client.get(path)).status == 404


async def test_each_look_is_told_to_whoever_listens_and_a_closed_page_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = Looks(_Lists(), None, "server", lambda: NOW)  # type: ignore[arg-type]
    async with TestClient(TestServer(application(looks, "127.0.0.1"))) as client:
        async with client.get("/api/looks") as stream:
            assert stream.headers["Content-Type"] == "text/event-stream"
            assert "default-src 'none'" in stream.headers["Content-Security-Policy"]
            for number in (1, 2):
                await looks.look()
                assert await stream.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
        for _ in range(20):
            await looks.look()
            await asyncio.sleep(0.01)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "place"),
    [("127.0.0.1:8899", ("127.0.0.1", 8899)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_an_address_is_read(text: str, place: tuple[str, int]) -> None:
    assert listen(text) == place


@pytest.mark.parametrize("text", ["8899", ":8899", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="ADDRESS:PORT"):
        listen(text)


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:", "https:"]
)
def test_no_line_of_the_page_makes_markup_of_data_or_names_another_host(word: str) -> None:
    for file in files("headrace_operator.tools.ui").joinpath("static").iterdir():
        assert word not in file.read_text().replace("http://www.w3.org/2000/svg", ""), file.name
