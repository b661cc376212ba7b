"""What the page draws of a history, in a real browser: gaps stay gaps, unknown is not zero, the target is its own."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from browsing import Tab, chromium, tab
from cluster.waiting import HANG
from headrace_operator.decide.conditions import timestamp
from headrace_operator.tools.ui.looks import Looks
from headrace_operator.tools.ui.values import Look, Point
from headrace_operator.tools.ui.web import application
from playwright.sync_api import Browser, Route
from written import now, status_of

Show = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens the page of one look, at an address within it."""
    looks = Looks(None, None, "https://127.0.0.1:6443", now)  # type: ignore[arg-type]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(application(looks, "127.0.0.1"), shutdown_timeout=0.1)

    async def listen() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = asyncio.run_coroutine_threadsafe(listen(), loop).result(HANG)
    with tab(browser) as opened:

        def shown(look: Look, fragment: str = "") -> Tab:
            looks.latest = look
            opened.page.goto(f"http://127.0.0.1:{port}/{fragment}")
            return opened

        yield shown
        assert opened.errors == []
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(HANG)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(HANG)
    loop.close()


def body(name: str = "chat", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"model": {"source": "pvc://m/l"}, "autoscaling": {"targets": {"queueWaitP95": "500ms"}}},
        "status": {**status_of(4, load=0.95, queue_wait_p95=0.1), **status},
    }


def look(*bodies: dict[str, Any], points: tuple[Point, ...] = (), interval: float = 2.0) -> Look:
    history = {one["metadata"]["uid"]: points for one in bodies}
    return Look(now(), 1, "https://127.0.0.1:6443", None, interval, bodies, history=history)


def points(*waits: float | None, step: float = 5.0) -> tuple[Point, ...]:
    """The last one is of this moment."""
    end = now()
    return tuple(Point(end - step * (len(waits) - 1 - index), wait, None, 4, 4) for index, wait in enumerate(waits))


def chart(page: Tab, name: str) -> Any:
    found = page.page.get_by_role("img", name=name)
    found.wait_for()
    return found


def heights(path: str) -> list[float]:
    """The y of each corner of a line."""
    return [float(y) for y in re.findall(r"[ML][\d.]+,([\d.]+)", path)]


def test_what_is_above_the_target_lies_above_its_line(show: Show) -> None:
    drawn = chart(show(look(body(), points=points(0.25, 0.5, 1.0)), "#/default/chat"), "Queue wait p95")
    line = heights(drawn.locator("path.line").first.get_attribute("d"))
    target = float(drawn.locator("line.target").get_attribute("y1"))
    assert line[0] > target > line[2], "y grows downwards"
    assert line[1] == pytest.approx(target, abs=0.1)
    assert drawn.locator("text.target").text_content() == "target 500 ms"


@pytest.mark.parametrize(
    ("waits", "step", "interval", "pieces"),
    [
        pytest.param((0.1, 0.1, None, 0.2, 0.2), 5.0, 2.0, 2, id="unknown is not drawn"),
        pytest.param((0.1, 0.1, 0.1), 60.0, 2.0, 3, id="a time without looks stays empty"),
        pytest.param((0.1, 0.1, 0.1), 60.0, 60.0, 1, id="with a look a minute that is no gap"),
    ],
)
def test_a_gap_stays_a_gap(
    show: Show, waits: tuple[float | None, ...], step: float, interval: float, pieces: int
) -> None:
    page = show(look(body(), points=points(*waits, step=step), interval=interval), "#/default/chat")
    assert chart(page, "Queue wait p95").locator("path.area").count() == pieces


def test_nothing_measured_is_said(show: Show) -> None:
    drawn = chart(show(look(body(), points=points(None, None)), "#/default/chat"), "Queue wait p95")
    assert drawn.locator("path.line").count() == 0
    assert "nothing measured yet" in (drawn.text_content() or "")


def test_the_pointer_reads_all_charts_at_one_moment(show: Show) -> None:
    page = show(look(body(), points=points(*[0.3] * 180)), "#/default/chat")
    chart(page, "Queue wait p95").hover()
    read = page.page.locator("svg.chart .cursor text")
    read.nth(2).wait_for()
    moments = [text.split()[0] for text in read.all_text_contents()]
    assert len(set(moments)) == 1
    assert read.first.text_content().endswith("300 ms")
    assert read.nth(2).text_content().endswith("4 / 4")


def test_scalings_are_marked_where_they_happened(show: Show) -> None:
    scalings = [
        {"at": timestamp(now() - ago), "from": before, "to": after, "reason": "LoadRose", "message": "x"}
        for ago, before, after in ((3000, 1, 2), (600, 2, 4), (60, 4, 3))
    ]
    page = show(look(body(decisions=scalings), points=points(0.1, 0.1)), "#/default/chat")
    drawn = chart(page, "Replicas")
    assert (drawn.locator(".marks .up").count(), drawn.locator(".marks .down").count()) == (1, 1)
    page.page.get_by_role("button", name="5 min", exact=True).click()
    assert (drawn.locator(".marks .up").count(), drawn.locator(".marks .down").count()) == (0, 1)
    assert len(page.page.locator(".timeline li").all()) == 3


TELLS_OF_LOOKS = """
window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    this.addEventListener("message", () => console.log("a look"));
  }
};
"""


def test_an_answer_that_takes_longer_than_a_look_is_shown(show: Show) -> None:
    """Else nothing is, where all of them do."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page = show(look(body("before"))).page
    page.add_init_script(TELLS_OF_LOOKS)
    page.route("**/api/overview", hold)
    page.goto("about:blank")
    with page.expect_console_message(lambda said: said.text == "a look"):
        shown = show(look(body("after")))
    held[0].continue_()
    shown.wait_for("after")
    page.unroute_all(behavior="ignoreErrors")
    page.goto("about:blank")


def test_hundreds_of_deployments_are_found_by_the_filter(show: Show) -> None:
    page = show(look(*(body(f"model-{number:03}") for number in range(300))))
    page.wait_for("The worst 100 of 300")
    page.page.fill("#words", "model-299")
    page.page.get_by_role("link", name="model-299").wait_for()
    assert page.page.locator("tbody tr").count() == 1
