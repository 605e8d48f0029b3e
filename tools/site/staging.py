"""Pages as the site generator takes them: links within the site, or to the repository.

The pages in `docs/` and in the top folder are written for readers of the repository as well, so a
link may lead to any file. On the site there are only pages and pictures; links to other files lead
to the repository, whose address is in pyproject.toml alone.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIG = ROOT / "mkdocs.yml"
# Pages of the top folder that the site has too, in this folder of it.
PROJECT = "project"
PROJECT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"(?P<before>\]\(|(?:src|href)=\")(?P<target>[^)\s\"#]+)(?P<after>[^)\s\"]*)")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:")
FENCE = re.compile(r"^ *```")
SPAN = re.compile(r"(`[^`]*`)")
ITEM = re.compile(r"^(?:[-*]|\d+\.) ")


class SiteError(Exception):
    """The site cannot be built; the message lists why."""


def read_repository() -> str:
    """Return the address of the repository, as pyproject.toml has it."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["urls"]["Repository"])


def read_nav(nav: list[Any]) -> list[str]:
    """Return the pages of a nav of MkDocs, in order: its leaves."""
    found: list[str] = []
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += read_nav(value) if isinstance(value, list) else [value]
    return found


def stage(folder: Path) -> None:
    """Write all that the generator needs into `folder`: `mkdocs.yml` and `docs/`.

    Raises SiteError when the nav and the pages differ, or when a link leads nowhere.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder / "docs")
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    repository = read_repository()
    config |= {"repo_url": repository, "repo_name": "samclip"}
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")

    sources = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
    sources |= {f"{PROJECT}/{name}": ROOT / name for name in PROJECT_PAGES}
    wrong = compare(read_nav(config["nav"]), list(sources))
    places = {source.resolve(): page for page, source in sources.items()}
    for page, source in sources.items():
        text, lost = rewrite_links(source.read_text("utf-8"), page, source, places, repository)
        wrong += lost
        target = folder / "docs" / page
        target.parent.mkdir(exist_ok=True)
        target.write_text(separate_blocks(text), "utf-8")
    if wrong:
        raise SiteError("\n".join(wrong))


def compare(nav: list[str], pages: list[str]) -> list[str]:
    """List the entries of the nav without a page, doubles, and the pages without an entry."""
    found = [f"mkdocs.yml: there is no page {entry}" for entry in nav if entry not in pages]
    found += [f"mkdocs.yml: {page} is twice in nav" for page in set(nav) if nav.count(page) > 1]
    return found + [f"mkdocs.yml: {page} is not in nav" for page in pages if page not in nav]


def rewrite_links(
    text: str, page: str, source: Path, places: dict[Path, str], repository: str
) -> tuple[str, list[str]]:
    """Return a page's text with links as the site needs them, and a line for each lost link.

    `page`: its path on the site; `source`: its file; `places`: the paths of all files on the site.
    """
    lost: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if OUTSIDE.match(match["target"]):
            return match[0]
        file = (source.parent / match["target"]).resolve()
        if not file.exists():
            lost.append(f"{source.relative_to(ROOT)}: {match['target']} leads nowhere")
            return match[0]
        place = places.get(file)
        if place is None and file.is_relative_to(DOCS) and file.is_file():
            place = file.relative_to(DOCS).as_posix()
        if place is not None:
            target = os.path.relpath(place, Path(page).parent)
        elif file.is_relative_to(ROOT):
            kind = "tree" if file.is_dir() else "blob"
            target = f"{repository}/{kind}/main/{file.relative_to(ROOT).as_posix()}"
        else:
            lost.append(f"{source.relative_to(ROOT)}: {match['target']} leaves the repository")
            return match[0]
        return f"{match['before']}{target}{match['after']}"

    return outside_code(text, lambda part: LINK.sub(replace, part)), lost


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with `change` done to all that is not code."""
    fenced = False
    lines = []
    for line in text.split("\n"):
        is_fence = bool(FENCE.match(line))
        fenced ^= is_fence
        if not fenced and not is_fence:
            parts = SPAN.split(line)
            # spans are the odd parts; a link around a span is cut in two, its target is not
            parts[::2] = [change(part) for part in parts[::2]]
            lines.append("".join(parts))
        else:
            lines.append(line)
    return "\n".join(lines)


def separate_blocks(text: str) -> str:
    """Put an empty line before each list and table that follows a line of text.

    GitHub needs none there; Python-Markdown would go on with the paragraph.
    """
    fenced = False
    lines: list[str] = []
    for line in text.split("\n"):
        last = lines[-1] if lines else ""
        begins_list = bool(ITEM.match(line)) and not ITEM.match(last) and not last.startswith(" ")
        begins_table = line.startswith("|") and not last.startswith("|")
        if not fenced and last and (begins_list or begins_table):
            lines.append("")
        fenced ^= bool(FENCE.match(line))
        lines.append(line)
    return "\n".join(lines)
