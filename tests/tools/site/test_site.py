"""The staged pages and the checks of the built site, on small pages that are wrong in one way each.

`scripts/check` builds the real site.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.site.html import find_faults
from tools.site.staging import (
    DOCS,
    ROOT,
    compare,
    read_nav,
    read_repository,
    rewrite_links,
    separate_blocks,
    stage,
)

REPOSITORY = "https://example.org/samclip"
PAGE = DOCS / "quickstart.md"
PLACES = {PAGE: "quickstart.md", ROOT / "SECURITY.md": "project/SECURITY.md"}


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("[a](quickstart.md#install)", "[a](quickstart.md#install)"),
        ("[a](../SECURITY.md)", "[a](project/SECURITY.md)"),
        ("[a](../NOTICE)", f"[a]({REPOSITORY}/blob/main/NOTICE)"),
        ("[a](../configs)", f"[a]({REPOSITORY}/tree/main/configs)"),
        ("![a](images/demo.jpg)", "![a](images/demo.jpg)"),
        ("[`a`](../NOTICE)", f"[`a`]({REPOSITORY}/blob/main/NOTICE)"),
        ("`[a](../NOTICE)`", "`[a](../NOTICE)`"),
        ("```\n[a](gone.md)\n```", "```\n[a](gone.md)\n```"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("[a](#install)", "[a](#install)"),
    ],
)
def test_links_lead_to_the_site_or_to_the_repository(link: str, wanted: str) -> None:
    assert rewrite_links(link, "quickstart.md", PAGE, PLACES, REPOSITORY) == (wanted, [])


@pytest.mark.parametrize("target", ["gone.md", "images/gone.jpg"])
def test_lost_links_are_reported(target: str) -> None:
    _, (line,) = rewrite_links(f"[a]({target})", "quickstart.md", PAGE, PLACES, REPOSITORY)
    assert line.startswith(f"docs/quickstart.md: {target} leads nowhere")


def test_nav_and_pages_are_compared() -> None:
    nav = read_nav([{"Home": "index.md"}, {"Part": ["a.md", {"B": "b.md"}]}])
    assert nav == ["index.md", "a.md", "b.md"]
    assert compare(nav, nav) == []
    found = compare([*nav, "a.md"], ["index.md", "a.md", "c.md"])
    assert [line.removeprefix("mkdocs.yml: ") for line in found] == [
        "there is no page b.md",
        "a.md is twice in nav",
        "c.md is not in nav",
    ]


def test_lists_and_tables_get_an_empty_line_before_them() -> None:
    assert separate_blocks("text:\n- a\n- b\n  more\n- c") == "text:\n\n- a\n- b\n  more\n- c"
    assert separate_blocks("## T\n| a |\n|---|") == "## T\n\n| a |\n|---|"
    assert separate_blocks("```\ntext\n- a\n```") == "```\ntext\n- a\n```"


def test_the_real_pages_can_be_staged(tmp_path: Path) -> None:
    stage(tmp_path / "site")
    config = (tmp_path / "site" / "mkdocs.yml").read_text("utf-8")
    assert f"repo_url: {read_repository()}" in config
    assert (tmp_path / "site" / "docs" / "project" / "SECURITY.md").is_file()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b/#there">b</a>', None),
        ('<a href="b/#gone">b</a>', "there is no such heading"),
        ('<a href="c/">c</a>', "there is no such file"),
        ('<img src="gone.png">', "there is no such file"),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="canonical" href="https://example.org/">', None),
        ('<a href="https://example.org/">x</a>', None),
    ],
)
def test_faults_of_html_are_found(tmp_path: Path, body: str, fault: str | None) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h2 id="there">b</h2>')
    (tmp_path / "index.html").write_text(body)
    found = list(find_faults(tmp_path))
    assert [line.endswith(fault or "") for line in found] == ([True] if fault else [])
