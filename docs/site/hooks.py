"""Makes one site of docs/ and of the pages that readers look for at the top of the repository; keeps their links."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
TOP = {  # page of the site: file at the top of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "reporting.md": "SECURITY.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)*)([^)#:]+)(#[^)]*)?\)")
PICTURE = re.compile(r"(!\[[^\]]*\]\()docs/")


def on_config(config: Any) -> Any:
    """A folder in `nav`, such as `decisions/`, stands for its pages: README first, then by name."""
    config.nav = [_expanded(item, Path(config.docs_dir)) for item in config.nav]
    return config


def _expanded(item: Any, docs: Path) -> Any:
    if not isinstance(item, dict):
        return item
    ((title, below),) = item.items()
    if isinstance(below, list):
        return {title: [_expanded(one, docs) for one in below]}
    if not below.endswith("/"):
        return item
    pages = sorted((docs / below).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return {title: [f"{below}{page.name}" for page in pages]}


def on_files(files: Files, config: Any) -> Files:
    for page, name in TOP.items():
        files.append(File.generated(config, page, content=_of_top((ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What lies outside docs/ is no page: its link becomes its name."""
    depth = page.file.src_uri.count("/")
    return LINK.sub(lambda link: _within(link, depth), markdown)


def _of_top(markdown: str) -> str:
    """Links of a file at the top, as seen from docs/, where its pictures lie, too."""

    def seen(link: re.Match[str]) -> str:
        text, _, path, anchor = link.groups(default="")
        inside = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        return f"[{text}]({inside}{anchor})"

    return LINK.sub(seen, PICTURE.sub(r"\1", markdown))


def _within(link: re.Match[str], depth: int) -> str:
    text, up, path, anchor = link.groups(default="")
    if up.count("../") <= depth:
        return link[0]
    page = next((page for page, name in TOP.items() if name == path), None)
    if page:
        return f"[{text}]({'../' * depth}{page}{anchor})"
    return text if path.rstrip("/") in text else f"{text} (`{path}` in the repository)"
