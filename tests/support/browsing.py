"""A page in a headless Chromium that tells what went wrong in it, and whether it asked anybody but us."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import browser
from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE = 120_000  # ms that a page may take to show what it should


@dataclass(slots=True)
class Tab:
    page: Page
    errors: list[str] = field(default_factory=list)  # of the console, and uncaught ones
    asked: set[str] = field(default_factory=set)  # host:port of every request
    dialogs: list[str] = field(default_factory=list)

    def text(self) -> str:
        return self.page.inner_text("body")

    def wait_for(self, text: str) -> None:
        self.page.get_by_text(text, exact=False).first.wait_for(timeout=PATIENCE)

    def row(self, of: str) -> str:
        """The text of the table's row that begins with this name, on one line."""
        return re.sub(
            r"\s+", " ", self.page.locator("tbody tr", has=self.page.get_by_role("link", name=of)).inner_text()
        )

    def shoot(self, file: Path) -> bytes:
        return self.page.screenshot(path=file, full_page=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    found = browser.ensure(print)
    with sync_playwright() as driver:
        # /dev/shm is small in containers
        options: dict[str, Any] = {"env": {"PATH": "/usr/bin:/bin", **found.env}, "args": ["--disable-dev-shm-usage"]}
        started = driver.chromium.launch(executable_path=found.program, **options)
        yield started
        started.close()


@contextmanager
def tab(of: Browser, **options: Any) -> Iterator[Tab]:
    """A fresh profile. `options`: Playwright's, such as color_scheme="dark"."""
    context = of.new_context(viewport={"width": 1440, "height": 900}, **options)
    context.set_default_timeout(PATIENCE)
    seen = Tab(context.new_page())
    page = seen.page
    page.on("console", lambda said: seen.errors.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.asked.add(urlsplit(request.url).netloc))

    def refuse(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    yield seen
    context.close()
