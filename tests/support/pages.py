"""The project's documents in Markdown, read as sections, tables, code spans and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^ *```")
HEADING = re.compile(r"^#{1,6} +(.+)$")
SPAN = re.compile(r"`([^`]+)`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
# In a cell: a number with decimals, with groups of thousands, or with a unit.
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+(?![\w.]*\.\d)|,\d{3}| (?:s|ms|%|[kMG]i?B|x|M)\b)")
# Tables of numbers that nobody measured here, by their page and header.
SPECIFICATIONS = {
    ("README.md", "system | Python | CPU | NVIDIA GPU | state"),
    ("docs/deploy/triton.md", "bound | default | option"),
    ("docs/deploy/triton.md", " | state"),  # versions of what was run
    ("docs/deploy/engines.md", "measure | asked for"),  # the limits of the gate
    (
        "docs/deploy/engines.md",
        "TensorRT | GPU | precision | report",
    ),  # builds that are passed over
    ("docs/evidence/accuracy.md", "data | classes | number | not counted"),
    ("docs/models/choosing.md", "way | weights | licence"),
    ("docs/models/c-radio.md", "file | what for | licence"),
    ("docs/evidence/cpu.md", " | ONNX Runtime | OpenVINO"),
    ("docs/evidence/faults.md", "what | most"),
    ("docs/evidence/gpu.md", "part | what is measured | required"),
    ("docs/deploy/jetson.md", "bundle | plans | running, one context | building, peak | verdict"),
    (
        "docs/deploy/jetson.md",
        "JetPack | Jetson Linux | boards | TensorRT | CUDA | Python | samclip",
    ),
    ("docs/evidence/peers.md", "peer | what it is | environment"),
    (
        "docs/export/precision.md",
        "measure | FP16 limit | BF16 limit | INT8 limit | how it is measured",
    ),
    ("docs/evidence/roofline.md", "device | dense FP16 | dense INT8 | memory | published in"),
    ("docs/evidence/roofline.md", "rate | how"),
    ("docs/deploy/serving.md", "bound | default | option"),
    ("docs/models/samclip-tiny.md", " | "),
}
# A table that a run of tests writes, see tests/attacks/figures.py.
WRITTEN = re.compile(r"<!-- figures: .*?<!-- end of figures -->", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A table: its first line in the page, its rows of cells, and the text that introduces it.

    `text` reaches from the table or heading before it to its end.
    """

    line: int
    rows: tuple[tuple[str, ...], ...]
    text: str

    @property
    def header(self) -> str:
        """The cells of the first row, with bars between them."""
        return " | ".join(self.rows[0])

    @property
    def body(self) -> tuple[tuple[str, ...], ...]:
        """The rows below the header and the line of dashes."""
        return self.rows[2:]

    def has_figures(self, page: str) -> bool:
        """Whether it has figures that somebody measured here; `page`: its name in the project."""
        return is_measured(self.body) and (page, self.header) not in SPECIFICATIONS


@dataclass(frozen=True)
class Section:
    """A heading, "" before the first one, and the lines below it up to the next heading."""

    title: str
    line: int
    lines: tuple[str, ...]

    def tables(self) -> Iterator[Table]:
        """Find the tables, each with the text before it."""
        bounds = [0, *_table_bounds(self.lines)]
        for before, begin, end in zip(bounds[::2], bounds[1::2], bounds[2::2], strict=False):
            rows = tuple(split_row(line) for line in self.lines[begin:end])
            yield Table(self.line + begin + 1, rows, "\n".join(self.lines[before:end]))


def sections(page: Path) -> list[Section]:
    """Split a page at its headings; lines in fenced code are not headings."""
    found: list[tuple[str, int, list[str]]] = [("", 0, [])]
    fenced = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fenced ^= bool(FENCE.match(line))
        heading = None if fenced else HEADING.match(line)
        if heading:
            found.append((heading[1], number, []))
        else:
            found[-1][2].append(line)
    return [Section(title, line, tuple(lines)) for title, line, lines in found]


def split_row(line: str) -> tuple[str, ...]:
    """Split a line of a table at its bars; a backslash keeps a bar in its cell."""
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1])


def is_measured(rows: tuple[tuple[str, ...], ...]) -> bool:
    """Whether a sixth of the cells have figures; the first column holds names."""
    cells = [re.sub(r"`[^`]*`|\]\(\S*\)", "", cell) for row in rows for cell in row[1:] if cell]
    return sum(bool(FIGURE.search(cell)) for cell in cells) * 6 >= len(cells) > 0


def code(text: str) -> list[str]:
    """List the commands and names in code: spans, and the lines of fenced blocks.

    Lines that end with a backslash are joined with the next; comments are left out.
    """
    blocks, rest = _split_fences(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = [" ".join(span.split()) for span in SPAN.findall(rest)]
    return [*(re.sub(r"(^|\s)#.*", "", line).strip() for line in lines), *spans]


@dataclass(frozen=True)
class Block:
    """Fenced code: its language, its first line in the page, and the title of its part.

    A part is what follows a heading of the first level.
    """

    part: str
    language: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """List the fenced code of a page, in order."""
    part, language, begin, lines = "", None, 0, list[str]()
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if FENCE.match(line) and language is None:
            language, begin, lines = line.strip(" `"), number + 1, []
        elif FENCE.match(line):
            yield Block(part, language or "", begin, "\n".join(lines) + "\n")
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("# "):
            part = line.removeprefix("# ")


def prose(text: str) -> str:
    """Blank all code, and tables that a run writes; line numbers stay."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = WRITTEN.sub(blank, text)
    text = re.sub(r"^ *```.*?^ *```$", blank, text, flags=re.DOTALL | re.MULTILINE)
    return SPAN.sub(blank, text)


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as links do: lower case, hyphens for spaces."""
    titles = (section.title.lower() for section in sections(page))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[str]:
    """List the targets of links and pictures that lie in this project; fenced code has none."""
    _, text = _split_fences(page.read_text("utf-8"))
    for target in (first or second for first, second in LINK.findall(text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def _table_bounds(lines: tuple[str, ...]) -> Iterator[int]:
    """Find where tables begin and end, outside fenced code."""
    fenced = inside = False
    for number, line in enumerate(lines):
        fenced ^= bool(FENCE.match(line))
        is_row = not fenced and line.startswith("|")
        if is_row != inside:
            yield number
            inside = is_row
    if inside:
        yield len(lines)


def _split_fences(text: str) -> tuple[list[str], str]:
    """Separate the content of fenced code from the rest."""
    parts = re.split(r"^ *```.*$", text, flags=re.MULTILINE)
    return parts[1::2], "\n".join(parts[::2])
