"""`make pictures`: what docs/ui.md shows, taken from a real browser while a local cluster scales under load."""

import asyncio
import sys
import tempfile
from pathlib import Path

from browsing import Tab, chromium, tab
from cluster import LocalCluster, NodeShape
from playwright.sync_api import ViewportSize
from ui_process import ui

from demo import story
from demo.users import Answers, converse

PLACE = story.ROOT / "docs" / "pictures"
SIZE = ViewportSize(width=1440, height=960)  # pixels
USERS = 8
BEFORE, RUSH, AFTER = 20.0, 50.0, 20.0  # seconds: little to do, more than one replica carries, little again
SHADES = ("light", "dark")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="headrace-pictures-") as directory:
        nodes = (NodeShape("gpu-a", gpus=2), NodeShape("gpu-b", gpus=2))
        with LocalCluster(Path(directory), nodes=nodes, images=story.IMAGES, report=print) as cluster:
            story.install(cluster)
            story.apply(cluster)
            cluster.kubectl("wait", "--for=condition=Ready", f"infdep/{story.NAME}", "--timeout=600s")
            with ui(cluster) as address:
                answers = asyncio.run(load(cluster))
                if answers.failed:
                    print(f"no picture: {answers.failed} of {answers.sent} requests failed: {dict(answers.failures)}")
                    return 1
                for shade in SHADES:
                    take(f"{address}#/default/{story.NAME}", shade)
    print(f"{answers.sent} requests, none failed; wrote {', '.join(f'ui-{shade}.png' for shade in SHADES)}")
    return 0


async def load(cluster: LocalCluster) -> Answers:
    answers, place = Answers(), story.doors(cluster)
    await converse(place, 2, BEFORE, story.CALM, answers)
    await converse(place, USERS, RUSH, story.RUSHED, answers)
    await converse(place, 2, AFTER, story.CALM, answers)
    return answers


def take(address: str, shade: str) -> None:
    with chromium() as browser, tab(browser, color_scheme=shade) as opened:
        opened.page.set_viewport_size(SIZE)
        opened.page.goto(address)
        opened.wait_for("What happened")
        opened.page.get_by_role("button", name="5 min", exact=True).click()
        opened.page.wait_for_timeout(1500)  # ms; a second look fills what begins empty
        keep(opened, PLACE / f"ui-{shade}.png")


def keep(opened: Tab, file: Path) -> None:
    if opened.errors:
        raise SystemExit(f"the page told of errors: {opened.errors}")
    opened.page.screenshot(path=file)


if __name__ == "__main__":
    sys.exit(main())
