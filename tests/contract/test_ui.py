"""`headrace ui` before a real API server and in a real browser: what it shows, and what nobody can make it do."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schema
from browsing import Tab, chromium, tab
from cluster import LocalCluster
from headrace_operator import kube
from headrace_operator.decide.conditions import timestamp
from playwright.sync_api import Browser
from tools import headrace
from ui_process import ui
from written import now, status_of

pytestmark = pytest.mark.cluster
HOSTILE = '</script><img src=x onerror="alert(1)"><script>window.taken = 1</script>'
FOREIGN_IMAGE = "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2:1/x'}))"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("ui"), nodes=()) as running:
        schema.install(running)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(cluster: LocalCluster) -> Iterator[str]:
    """Of a page that looks at the namespace `default`."""
    with ui(cluster) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Tab]:
    """Everything is asked of us, and nothing goes wrong, whatever a test does."""
    with tab(browser) as opened:
        yield opened
    assert opened.errors == []
    assert opened.dialogs == []
    assert all(host.startswith("127.0.0.1:") for host in opened.asked), opened.asked


@pytest.fixture
def chat(cluster: LocalCluster) -> Iterator[str]:
    """An InferenceDeployment of which the operator has decided once that its four replicas do."""
    make(cluster, "chat")
    tell(cluster, "chat", status_of(4, load=0.95, queue_wait_p95=0.12))
    yield "chat"
    cluster.kubectl("delete", "infdep,events", "--all", "--now")


def make(cluster: LocalCluster, name: str, **autoscaling: Any) -> None:
    spec = {
        "model": {"source": "pvc://models/llama"},
        "autoscaling": {"maxReplicas": 16, "targets": {"queueWaitP95": "500ms"}, **autoscaling},
    }
    metadata = {"name": name, "namespace": "default"}
    cluster.apply(
        {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": metadata, "spec": spec}
    )


def tell(cluster: LocalCluster, name: str, status: dict[str, Any]) -> None:
    """As the operator writes it."""
    patch = ("--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}))
    cluster.kubectl("patch", "infdep", name, *patch)


def event(cluster: LocalCluster, about: str, reason: str, message: str) -> None:
    uid = cluster.object("infdep", about)["metadata"]["uid"]
    what = {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "namespace": "default"}
    cluster.api.create(
        kube.events("default"),
        {
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": f"{about}.{reason.lower()}", "namespace": "default"},
            "involvedObject": {**what, "name": about, "uid": uid}, "type": "Warning",
            "reason": reason, "message": message, "count": 3, "lastTimestamp": timestamp(now()),
        },
    )  # fmt: skip


def test_it_lists_what_the_operator_wrote(cluster: LocalCluster, address: str, chat: str, page: Tab) -> None:
    make(cluster, "fresh")
    page.page.goto(address)
    page.wait_for("fresh")
    told = page.row(chat)
    for part in ("Good", "4 / 4", "4 Ready", "bounds 1–16", "120 ms", "target 500 ms", "Steady"):
        assert part in told
    assert "Unknown" in page.row("fresh")
    assert "No operator has looked at it yet" in page.row("fresh")
    page.page.fill("#words", "fre")
    page.page.get_by_role("link", name=chat).wait_for(state="hidden")
    assert page.page.title() == "Headrace"


def test_a_scaling_appears_by_itself_with_its_reason(
    cluster: LocalCluster, address: str, chat: str, page: Tab, tmp_path: Path
) -> None:
    before = cluster.object("infdep", chat)
    page.page.goto(f"{address}#/default/{chat}")
    page.wait_for("What happened")
    assert "Nothing yet." in page.text()
    tell(cluster, chat, status_of(4, load=1.9, queue_wait_p95=0.74, before=before["status"]))
    event(cluster, chat, "AtMaximum", "17 replicas are wanted, 16 are allowed")
    page.page.locator(".timeline li.up", has_text="4 → 8").wait_for()
    entry = page.page.locator(".timeline li.up").inner_text()
    assert "LoadRose" in entry
    assert "4 -> 8 replicas" in entry
    warning = page.page.locator(".timeline li.warning").inner_text()
    assert "AtMaximum" in warning
    assert "3 times" in warning
    page.wait_for("740 ms")
    page.page.locator("svg.chart line.target").wait_for(state="attached")
    assert page.page.locator("svg.chart line.target").count() == 1
    assert "target 500 ms" in (page.page.get_by_role("img", name="Queue wait p95").get_attribute("aria-label") or "")
    assert "Proposals, of which the highest counts" in page.text()
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        assert len(page.shoot(tmp_path / f"{scheme}.png")) > 20_000


def focused(page: Tab) -> str:
    """The text of what the keyboard acts on."""
    return str(page.page.evaluate("document.activeElement.textContent"))


def test_a_keyboard_is_enough_and_news_takes_no_focus_away(address: str, chat: str, page: Tab) -> None:
    page.page.goto(address)
    page.wait_for(chat)
    page.page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    for _ in range(8):
        page.page.keyboard.press("Tab")
        if focused(page) == chat:
            break
    page.page.keyboard.press("Enter")
    page.wait_for("What happened")
    page.page.locator("summary").focus()
    page.page.keyboard.press("Enter")
    page.wait_for("capacityTokensPerSecond")
    with page.page.expect_response("**/api/deployments/**"), page.page.expect_response("**/api/deployments/**"):
        pass  # two looks have come in
    assert focused(page) == "Everything it was decided on"
    assert page.page.get_by_text("capacityTokensPerSecond").is_visible()


def colours(page: Tab) -> tuple[str, str]:
    """Ink and ground."""
    found = page.page.evaluate(
        "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()"
    )
    return found[0], found[1]


def brightness(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_is_dark_where_the_system_is_and_where_a_person_says_so(address: str, chat: str, page: Tab) -> None:
    page.page.goto(address)
    page.wait_for(chat)
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.page.emulate_media(color_scheme=scheme)
        assert_readable(page, is_dark=is_dark)
    page.page.click("#theme")  # system -> light
    assert_readable(page, is_dark=False)
    page.page.click("#theme")  # light -> dark
    page.page.emulate_media(color_scheme="light")
    assert_readable(page, is_dark=True)
    page.page.reload()
    page.wait_for(chat)
    assert_readable(page, is_dark=True)


def assert_readable(page: Tab, *, is_dark: bool) -> None:
    ink, ground = map(brightness, colours(page))
    assert (ink > ground) == is_dark
    assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7  # contrast, WCAG AAA


def test_hostile_words_stay_words(cluster: LocalCluster, address: str, chat: str, page: Tab) -> None:
    told = status_of(4, load=1.9)
    told["lastDecision"]["message"] = told["decisions"][0]["message"] = HOSTILE
    for condition in told["conditions"]:
        condition["message"] = HOSTILE
    tell(cluster, chat, told)
    event(cluster, chat, "PodRefused", HOSTILE)
    cluster.wait("the ServiceAccount", lambda: cluster.object("serviceaccount", "default"))
    labels = {"headrace.dev/deployment": chat, "app.kubernetes.io/managed-by": "headrace", "headrace.dev/role": "king"}
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "odd", "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "server", "image": "headrace-server:1"}]},
    })  # fmt: skip
    try:
        page.page.goto(f"{address}#/default/{chat}")
        page.wait_for("Unreadable")
        cluster.wait("every place of them is shown", lambda: page.text().count(HOSTILE) >= 3)
        page.page.goto(f"{address}#/")
        page.wait_for(chat)
        page.page.goto(f"{address}#/%3Cimg%20src=x%20onerror=alert(1)%3E/x")
        page.wait_for("No InferenceDeployment <img src=x onerror=alert(1)>/x")
        assert page.page.evaluate("window.taken") is None
        assert page.page.locator("main img, main script").count() == 0
    finally:
        cluster.kubectl("delete", "pod", "odd", "--force")


def test_a_script_that_came_in_would_not_run(cluster: LocalCluster, address: str, chat: str, browser: Browser) -> None:
    with tab(browser) as page:
        page.page.goto(address)
        page.wait_for(chat)
        refused = page.page.evaluate(
            "(() => { try { document.body.innerHTML = '<b>' } catch (e) { return e.name } })()"
        )
        assert refused == "TypeError"  # require-trusted-types-for
        with page.page.expect_console_message(lambda said: "Content Security Policy" in said.text):
            page.page.evaluate(FOREIGN_IMAGE)


def test_nothing_there_is_said_with_what_to_do(cluster: LocalCluster, page: Tab) -> None:
    with ui(cluster, "--namespace", "kube-system") as address:
        page.page.goto(address)
        page.wait_for("No InferenceDeployments in namespace kube-system")
        assert "kubectl apply -f" in page.text()
        page.page.goto("about:blank")


def test_who_has_no_rights_reads_which_to_ask_for(cluster: LocalCluster, chat: str, page: Tab, tmp_path: Path) -> None:
    cluster.kubectl("create", "serviceaccount", "onlooker")
    other = tmp_path / "onlooker"
    other.write_text(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "onlooker").strip()
    cluster.kubectl("config", "--kubeconfig", other, "set-credentials", "onlooker", f"--token={token}")
    cluster.kubectl("config", "--kubeconfig", other, "set-context", "--current", "--user=onlooker")
    with ui(cluster, KUBECONFIG=str(other)) as address:
        page.page.goto(address)
        page.wait_for("The cluster cannot be seen")
        assert "forbidden" in page.text()
        assert "ask for the `view` role" in page.text()
        only = ("--verb=get,list,watch", "--resource=inferencedeployments.headrace.dev")
        cluster.kubectl("create", "role", "infdeps", *only)
        cluster.kubectl("create", "rolebinding", "infdeps", "--role=infdeps", "--serviceaccount=default:onlooker")
        page.page.get_by_role("link", name=chat).wait_for()  # without a reload
        assert "The cluster cannot be seen" not in page.text()
        assert "Without pods: " in page.text()
        assert "Without events: " in page.text()
        page.page.goto("about:blank")


def test_a_cluster_that_is_away_is_named(cluster: LocalCluster, page: Tab, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.write_text(cluster.kubeconfig.read_text())
    cluster.kubectl("config", "--kubeconfig", away, "set-cluster", "headrace-local", "--server=https://127.0.0.1:1")
    with ui(cluster, KUBECONFIG=str(away)) as address:
        page.page.goto(address)
        page.wait_for("is https://127.0.0.1:1 the cluster that you mean?")
        page.page.goto("about:blank")


def test_a_cluster_without_headrace_is_told_from_one_without_deployments(
    cluster: LocalCluster, address: str, page: Tab
) -> None:
    cluster.kubectl("delete", "-f", schema.CRD)
    try:
        page.page.goto(address)
        page.wait_for("is Headrace installed here?")
        assert "No InferenceDeployments" not in page.text()
    finally:
        schema.install(cluster)


def test_a_page_whose_server_ended_says_so(cluster: LocalCluster, chat: str, browser: Browser) -> None:
    with tab(browser) as page:
        with ui(cluster) as address:
            page.page.goto(address)
            page.wait_for(chat)
        page.wait_for("headrace ui does not answer")


def test_other_sites_get_nothing(cluster: LocalCluster, address: str, chat: str) -> None:
    with urllib.request.urlopen(f"{address}api/overview") as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    rebound = urllib.request.Request(f"{address}api/overview", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(rebound)
    assert refused.value.code == 421
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{address}api/overview", method=method))
        assert refused.value.code == 405
        assert "default-src 'none'" in refused.value.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("--listen", "8899"), "must be ADDRESS:PORT", id="no address"),
        pytest.param(("--interval", "0"), "above 0", id="no pause"),
        pytest.param(("--listen", "127.0.0.1:{port}"), "name another with --listen", id="taken"),
    ],
)
def test_where_it_cannot_listen_it_says_what_to_do(cluster: LocalCluster, words: tuple[str, ...], says: str) -> None:
    taken = cluster.api.server.rpartition(":")
    host = taken[0].rpartition("/")[2]
    said = headrace(cluster, "ui", *(word.format(port=taken[2]).replace("127.0.0.1", host) for word in words))
    assert said.status != 0
    assert says in said.err
