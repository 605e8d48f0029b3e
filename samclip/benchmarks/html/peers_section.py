"""Who ran beside whom: versions of each peer's environment, and why some did not run."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, seconds
from samclip.benchmarks.html.sources import Sources


def peers_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where there were no peers."""
    peers = [peer for source in sources.all for peer in source.report.peers]
    if not peers:
        return
    yield el("h2", "Who ran", id="peers")
    rows: list[list[Child]] = [
        [
            peer.name,
            peer.what,
            peer.reason or "ran",
            f"{peer.image_size} px",
            NONE if peer.load_seconds is None else seconds(peer.load_seconds),
        ]
        for peer in peers
    ]
    yield table(["contender", "what it is", "", "input", "to load"], rows, left=3)
    versions = [
        el("li", f"{peer.name}: Python {peer.python}, {_packages(peer.packages)}")
        for peer in peers
        if peer.python
    ]
    yield el("details", el("summary", "Versions of each environment"), el("ul", *versions))


def _packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
