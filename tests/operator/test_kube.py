"""What a call to the API server does when the server is overloaded, failing or silent. A real HTTP server says so."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from headrace_operator import kube
from headrace_operator.errors import Unavailable
from headrace_operator.kube import ApiUnavailable, Call, Kube, KubeError
from kubernetes.aio import client
from kubernetes.aio.utils import Backoff

Reply = Callable[[], web.Response]
POD = "/api/v1/namespaces/default/pods/a"


class Server:
    """Answers with what it is told, one reply after the other, then 200."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, float]] = []  # method, loop time
        self.queries: list[dict[str, str]] = []
        self.gate = asyncio.Event()  # holds answers back until it is set
        self.gate.set()
        self.together = self.most_together = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, asyncio.get_running_loop().time()))
        self.queries.append(dict(request.query))
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        if request.query.get("held", "true") == "true":
            await self.gate.wait()
        self.together -= 1
        return self.replies.pop(0)() if self.replies else web.json_response({"metadata": {}, "items": []})


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
def heard() -> list[tuple[Call, float]]:
    """Every try of the client, with the time at which it was over."""
    return []


@pytest.fixture
async def api(server: Server, heard: list[tuple[Call, float]], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setattr(kube, "PATIENCE", Backoff(steps=4, duration=0.01, factor=2.0))
    monkeypatch.setattr(kube, "REQUEST_TIMEOUT", 300.0)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    configuration = client.Configuration()
    configuration.host = f"http://{host}:{port}"
    async with Kube(configuration, heard=lambda call: heard.append((call, time.monotonic()))) as opened:
        yield opened
    server.gate.set()
    await runner.cleanup()


def refused(status: int, **headers: str) -> Reply:
    return lambda: web.json_response({"message": f"said {status}"}, status=status, headers=headers)


async def test_the_server_says_when_it_wants_to_be_asked_again(server: Server, api: Kube) -> None:
    server.replies = [refused(429, **{"Retry-After": "1"})]
    await api.get(POD)
    (_, first), (_, second) = server.asked
    assert second - first >= 1.0


async def test_a_server_cannot_make_us_wait_for_long(
    server: Server, api: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "LONGEST_WAIT", 0)
    server.replies = [refused(503, **{"Retry-After": "3600"})]
    await asyncio.wait_for(api.get(POD), 600)
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_one_failure_is_not_noticed(server: Server, api: Kube, status: int) -> None:
    server.replies = [refused(status)]
    await api.apply(POD, {})
    assert [method for method, _ in server.asked] == ["PATCH", "PATCH"]


async def test_a_server_that_goes_on_failing_is_said_to_be_unavailable(server: Server, api: Kube) -> None:
    server.replies = [refused(500)] * 10
    with pytest.raises(ApiUnavailable, match="said 500") as error:
        await api.get(POD)
    assert isinstance(error.value, Unavailable)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
async def test_what_is_refused_is_not_asked_again(server: Server, api: Kube, status: int) -> None:
    server.replies = [refused(status)]
    with pytest.raises(KubeError, match=f"said {status}") as error:
        await api.apply(POD, {})
    assert not isinstance(error.value, Unavailable)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "tries"), [(429, 2), (500, 1)])
async def test_a_post_is_repeated_only_when_it_was_surely_not_done(
    server: Server, api: Kube, status: int, tries: int
) -> None:
    server.replies = [refused(status)]
    call: Awaitable[object] = api.create("/api/v1/namespaces/default/events", {})
    if tries == 1:
        with pytest.raises(ApiUnavailable):
            await call
    else:
        await call
    assert len(server.asked) == tries


async def test_no_answer_is_unavailable_too(
    server: Server, api: Kube, heard: list[tuple[Call, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "REQUEST_TIMEOUT", 0.1)
    server.gate.clear()
    with pytest.raises(ApiUnavailable, match=r"no answer: \w*TimeoutError"):
        await api.get(POD)
    assert [call.status for call, _ in heard] == [0] * 4


async def test_a_port_where_nobody_listens_is_unavailable_too(api: Kube) -> None:
    api._client.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(ApiUnavailable, match="no answer"):
        await api.get(POD)


async def test_a_long_list_comes_in_parts(server: Server, api: Kube) -> None:
    server.replies = [
        lambda: web.json_response({"metadata": {"continue": "more"}, "items": [1]}),
        lambda: web.json_response({"metadata": {}, "items": [2]}),
    ]
    found = [item async for page in api.pages("/api/v1/pods", labelSelector="a=b") for item in page["items"]]
    assert found == [1, 2]
    assert server.queries == [
        {"limit": kube.PAGE, "labelSelector": "a=b"},
        {"limit": kube.PAGE, "labelSelector": "a=b", "continue": "more"},
    ]


async def test_who_may_not_write_does_not(server: Server, api: Kube) -> None:
    def never() -> None:
        raise PermissionError("another leads")

    guarded = api.guarded(never)
    with pytest.raises(PermissionError):
        await guarded.merge(POD, {})
    await guarded.get(POD)
    assert [method for method, _ in server.asked] == ["GET"]


async def test_a_guard_is_asked_again_before_every_try(server: Server, api: Kube) -> None:
    tries: list[int] = []

    def once() -> None:
        tries.append(len(tries))
        if len(tries) > 1:
            raise PermissionError("lost meanwhile")

    server.replies = [refused(500)] * 4
    with pytest.raises(PermissionError):
        await api.guarded(once).merge(POD, {})
    assert len(server.asked) == 1


async def test_the_leaders_calls_take_turns_and_their_time_begins_with_the_turn(
    server: Server, api: Kube, heard: list[tuple[Call, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "SEATS", 2)
    server.gate.clear()
    leading = api.guarded(lambda: None)
    calls = [asyncio.create_task(leading.apply(POD, {})) for _ in range(8)]
    async with asyncio.timeout(300):
        while server.together < 2:
            await asyncio.sleep(0.01)
        await api.get(POD, held="false")  # nobody else waits for them
    assert [call.method for call, _ in heard] == ["GET"]
    server.gate.set()
    await asyncio.gather(*calls)
    assert len(server.asked) == 9
    assert server.most_together == 3
    (_, first_ended), *_, (last, last_ended) = heard[1:]
    assert last_ended - last.seconds >= first_ended
