"""The built site as a browser sees it: targets of links and pictures, and what is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements whose address is fetched when a page is shown, and the attribute that has it.
LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
NOT_FETCHED = {"canonical", "alternate", "edit", "next", "prev"}  # values of rel


class _Page(HTMLParser):
    """Ids and addresses of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        attribute = LOADED.get(tag, "")
        if attribute in values and values.get("rel") not in NOT_FETCHED:
            self.loaded.append(values[attribute])


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text("utf-8"))
    return page


def find_faults(site: Path) -> Iterator[str]:
    """List links and pictures that lead nowhere, and all that a page would load from elsewhere."""
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # its addresses begin at the site's root
            continue
        page, where = _read(path), path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{where}: loads {address}"
        for address in [*page.links, *page.loaded]:
            if fault := _find_fault(path, address):
                yield f"{where}: {address}: {fault}"


def _find_fault(path: Path, address: str) -> str | None:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "there is no such file"
    wanted = unquote(parts.fragment)
    if wanted and target.suffix == ".html" and wanted not in _read(target).ids:
        return "there is no such heading"
    return None
