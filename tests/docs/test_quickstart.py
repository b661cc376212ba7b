"""docs/quickstart.md followed as a new user would, on a machine of its own: every command, and what it must say.

The page in between is looked at in a browser while the load runs: a scaling appears on it, with its reason.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import chromium, tab
from cluster.client import attach
from runnable import Shell, blocks
from ui_process import ui

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
MOST_LOADS = 8  # of fifteen seconds: an operator that gets no processor for so long sees nothing of one
pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def shell(state: Path, tmp_path: Path) -> Iterator[Shell]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "HEADRACE_CACHE", "LANG"}}  # noqa: TID251
    env = {**kept, "XDG_STATE_HOME": str(state), "XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONUNBUFFERED": "1"}
    with Shell(ROOT, env) as started:
        try:
            yield started
        finally:
            started.run("python -m cluster down >/dev/null 2>&1 || true")


def test_the_quick_start_is_so(shell: Shell, state: Path, tmp_path: Path) -> None:
    found = blocks(PAGE, "quickstart")
    assert len(found) == 7
    for block in found:
        if "load" not in block.tags:
            shell.follow(block, PAGE)
            continue
        cluster = attach(state / "headrace" / "cluster")
        with chromium() as browser, tab(browser) as page, ui(cluster) as address:
            page.page.goto(f"{address}#/default/scripture")
            page.wait_for("What happened")
            scaling = page.page.locator(".timeline li.up", has_text="1 →").first
            for _ in range(MOST_LOADS):
                shell.follow(block, PAGE)
                if scaling.count():
                    break
            scaling.wait_for()
            assert re.search(r"LoadRose|QueueWaitHigh", scaling.inner_text())
            page.shoot(tmp_path / "scaling.png")
            assert page.errors == []
