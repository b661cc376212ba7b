"""The documentation as a site: it builds without a warning, has every page, and loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # noqa: TID251 - as `make docs` runs it
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    return folder


class _Loaded(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in LOADING and found.get("rel") != "canonical":
            self.places.append(found.get(LOADING[tag]) or "")


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        parser = _Loaded()
        parser.feed(page.read_text())
        assert parser.places
        assert [place for place in parser.places if re.match(r"(https?:)?//", place)] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text()), style.name


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("index.html", 'href="manifest.html"'),
        ("security.html", 'href="reporting.html"'),
        ("contributing.html", 'href="decisions/index.html"'),
        ("decisions/index.html", 'href="0001-two-packages.html"'),
    ],
)
def test_links_lead_on_between_pages_and_files_of_the_repository(site: Path, page: str, link: str) -> None:
    assert link in (site / page).read_text()


def test_the_reference_is_made_from_the_schema() -> None:
    """`make generate` writes it."""
    spec = importlib.util.spec_from_file_location("crd_page", ROOT / "docs" / "site" / "crd.py")
    assert spec is not None
    assert spec.loader is not None
    crd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(crd)
    assert crd.PAGE.read_text() == crd.page(yaml.safe_load(crd.SCHEMA.read_text()))
