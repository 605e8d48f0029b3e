"""The page: valid, whole, safe whatever names hold, and its stages add up."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import pytest
from made_reports import STAGES, WHOLE, accuracy, latency, memory, profile, report, roofline

from samclip.benchmarks.html.named_reports import NamedReport, NamedReports
from samclip.benchmarks.html.page import render
from samclip.benchmarks.measurements import Energy, Participant
from samclip.benchmarks.records import Report, Row
from samclip.benchmarks.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = '<script>alert("x")</script>" onload="alert(1) \x07&amp;'


class Page(HTMLParser):
    """Reads a page: tags with their attributes, texts by tag, and whether all tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")


def page(*reports: Report) -> Page:
    named = (NamedReport(f"r{place}", one) for place, one in enumerate(reports))
    return Page(render(NamedReports(tuple(named))))


@pytest.fixture(scope="module")
def full() -> Page:
    models = ("tiny", "vit_b")
    return page(
        latency(*models), memory(*models), accuracy(*models), roofline("tiny"), profile("tiny")
    )


def test_it_begins_with_what_matters(full: Page) -> None:
    assert full.said("h1") == [
        "tiny, vit_b: latency, memory, accuracy instances, roofline and profile"
    ]
    lead = next(text for tag, text in full.texts if tag == "p" and "goes from" in text)
    assert re.match(r"tiny goes from photo file to three answers in \d+ ms, the median of 40", lead)
    assert re.search(r"vit_b is 0\.6\dx as fast \(0\.\d+ - 0\.\d+, measured in turns\)", lead)
    assert {"meta", "title", "style"} <= {tag for tag, _ in full.tags}
    viewport = [meta for meta in full.all("meta") if meta.get("name") == "viewport"]
    assert viewport[0]["content"] == "width=device-width, initial-scale=1"


def test_it_loads_nothing_and_runs_nothing(full: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in full.tags}
    attributes = {name for _, given in full.tags for name in given}
    assert not {name for name in attributes if name.startswith("on")}
    assert not {"href", "src", "xlink:href"} & attributes
    style = " ".join(full.said("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_every_section_is_there_and_every_drawing_says_what_it_shows(full: Page) -> None:
    assert {given.get("id") for given in full.all("h2")} >= {
        "latency", "stages", "tradeoff", "memory", "roofline", "profile", "how"
    }  # fmt: skip
    drawings = full.all("svg")
    assert len(drawings) >= 8
    assert all(given["aria-label"] and given["viewbox"] for given in drawings)


def test_every_sample_is_a_dot() -> None:
    paths = [given["d"] for given in page(latency("tiny")).all("path")]
    assert [str(path).count("h0") for path in paths] == [40, 40, 40, 3]


def test_stages_add_up_to_the_whole(full: Page) -> None:
    cells = full.said("td")
    start = cells.index("whole")
    assert cells[start + 2] == "100 %"
    assert cells[start + 4] == "100 %"
    assert "not in any stage" not in full.text
    assert all(stage in full.text for stage in STAGES)


def test_bars_of_stages_are_as_long_as_the_whole() -> None:
    found = latency("tiny")
    whole = next(t for t in found.timings if t.kind == "pipeline")
    widths = [float(str(r["width"])) for r in page(found).all("rect")]
    stages = [t for t in found.timings if t.part_of == WHOLE]
    expected = [fmean(t.samples) / fmean(whole.samples) for t in stages]
    assert sum(widths) / (352 / 1.04) == pytest.approx(1, abs=1e-3)
    assert max(widths) / sum(widths) == pytest.approx(max(expected), abs=1e-3)


def test_time_that_no_stage_explains_is_shown() -> None:
    found = latency("tiny")
    kept = tuple(t for t in found.timings if t.name not in {"encoder", "other"})
    text = page(msgspec.structs.replace(found, timings=kept)).text
    assert "not in any stage" in text


def test_names_are_text_whatever_they_hold() -> None:
    made = (latency, memory, accuracy, roofline, profile)
    found = page(*(one(HOSTILE) for one in made))
    assert not found.all("script")
    assert not any(name.startswith("on") for _, given in found.tags for name in given)
    assert '<script>alert("x")</script>' in found.text
    assert "\x07" not in found.text


def test_warnings_are_one_folded_block_that_counts_them() -> None:
    busy = msgspec.structs.replace(latency("tiny").threads, load=(9.0, 9.0, 9.0))
    other = msgspec.structs.replace(latency("tiny").machine, cpu="Cortex-A78AE")
    found = page(
        msgspec.structs.replace(latency("tiny"), threads=busy),
        msgspec.structs.replace(memory("tiny"), machine=other),
    )
    assert [given.get("id") for given in found.all("details")].count("warnings") == 1
    (summary,) = [text for text in found.said("summary") if "warning" in text]
    assert (
        summary
        == "4 warnings: busy machine (1), different machines (1), noise (1), moving clocks (1)"
    )
    for line in ("coefficient of variation is above 5%", "r0: 9.0 processes wanted one of 2 cores",
                 "clocks could move", "different machines"):  # fmt: skip
        assert sum(line in item for item in found.said("li")) == 1
    assert "warnings" not in [given.get("id") for given in page(memory("tiny")).all("details")]


def test_times_are_compared_within_a_run_only() -> None:
    """Two runs of the same models: each has its plots, and no sentence or plot mixes them."""
    fast, slow = latency("tiny", "vit_b"), latency("tiny", "vit_b")
    halved = [msgspec.structs.replace(t, samples=tuple(s / 2 for s in t.samples))
              for t in fast.timings]  # fmt: skip
    found = page(msgspec.structs.replace(fast, timings=tuple(halved)), slow, accuracy("tiny"))
    lead = next(text for tag, text in found.texts if tag == "p" and "goes from" in text)
    assert "vit_b (r0) is 0.6" in lead
    assert "(r1)" not in lead
    names = [
        text for tag, text in found.texts if tag == "text" and text.startswith(("tiny", "vit"))
    ]
    assert names.count("tiny (r0)") == names.count("tiny (r1)") > 0
    assert [text for text in found.said("h3") if text.startswith("Run")] == ["Run r0", "Run r1"] * 2
    for drawing in drawn(found):
        assert not any("(r0)" in text for text in drawing) or not any("(r1)" in t for t in drawing)
    points = [text for text in found.said("figcaption") if text.startswith("box mIoU")]
    assert [text.rpartition(" ")[2] for text in points] == ["r0", "r1"]
    assert "several runs (1)" in " ".join(found.said("summary"))


def drawn(found: Page) -> list[list[str]]:
    """Return the texts of each drawing; a figure's title comes before its drawing."""
    drawings: list[list[str]] = [[]]
    for tag, text in found.texts:
        if tag == "text":
            drawings[-1].append(text)
        elif drawings[-1]:
            drawings.append([])
    return drawings


def test_accuracy_of_other_photos_is_another_plot() -> None:
    one = accuracy("a", "b")
    data = msgspec.structs.replace(one.data, path="others")
    found = page(latency("a", "b"), one, msgspec.structs.replace(one, data=data))
    captions = [text for text in found.said("figcaption") if text.startswith("box mIoU")]
    assert captions == [
        f"box mIoU (all objects) of 5 photos of {path}, against photo file to three answers of r0"
        for path in ("photos", "others")
    ]


def test_how_it_was_measured_is_told_in_full(full: Page) -> None:
    for told in ("samclip-bench latency --json r.json", "AMD EPYC 7B13", "onnxruntime 1.31.1",
                 "policy0 1,500-3,200 MHz", "photo by photo", "Every sample is kept."):  # fmt: skip
        assert told in full.text


def test_estimates_are_marked_wherever_they_stand(full: Page) -> None:
    assert "ESTIMATE for devices that were not measured" in full.said("h3")
    assert {"ESTIMATE: device", "ESTIMATE at 36 %"} <= set(full.said("th"))
    assert {"Orin Nano 8GB (Super)", "6.54 ms", "18.2 ms"} <= set(full.said("td"))


def test_models_of_one_name_in_two_reports_are_told_apart() -> None:
    text = page(latency("tiny"), latency("tiny")).text
    assert "tiny (r0)" in text
    assert "tiny (r1)" in text


def test_accuracy_with_seconds_of_its_own_is_plotted_against_them() -> None:
    found = page(accuracy("a", "b", seconds=True))
    assert (
        "box mIoU (all objects) of 5 photos of photos, against seconds a photo of r0"
        in found.said("figcaption")
    )
    assert len(found.all("circle")) == 4


def test_accuracy_in_two_reports_is_one_plot() -> None:
    other = accuracy("a", "b")
    found = page(latency("a", "b"), accuracy("a"), other)
    captions = [c for c in found.said("figcaption") if c.startswith("box mIoU")]
    assert len(captions) == 1
    assert len(found.all("circle")) == 6


def test_accuracy_alone_is_tables() -> None:
    found = page(accuracy("a"))
    assert "tradeoff" not in {given.get("id") for given in found.all("h2")}
    assert "0.710" in found.said("td")
    assert "accuracy instances of a" in found.text


def test_the_amortised_table() -> None:
    rows = [
        Row(model=way, measure=measure, subset=subset, value=value, low=None, high=None, n=5,
            photos=5, unit=unit)
        for way, factor in (("merged", 1.0), ("SAM and CLIP", 2.0))
        for measure, subset, value, unit in (
            ("seconds", "three tasks, 10 prompts", 0.5 * factor, "seconds"),
            ("multiply-accumulates", "three tasks, 10 prompts", 6e10 * factor, "count"),
            ("vision parameters", "all", 1e7 * factor, "count"),
        )
    ]  # fmt: skip
    found = page(report("amortised", "merged", rows=tuple(rows)))
    assert {"1.00 s", "0.50x as fast"} <= set(found.said("td"))
    assert {"10.0 M", "20.0 M", "120 G"} <= set(found.said("td"))


def test_peers_and_energy_that_are_not_known_say_why() -> None:
    peers = (Participant(name="a peer", what="an export", image_size=1024, reason="no wheel"),)
    energy = (Energy(model="tiny", name="encode", joules=None, runs=0, seconds=0, reason="none"),)
    cells = page(report("peers", "tiny", peers=peers, energy=energy)).said("td")
    assert {"no wheel", "1024 px", "none"} <= set(cells)


def test_old_reports_are_read_and_written_as_a_page(tmp_path: Path, bench: Any) -> None:
    path, target = tmp_path / "old.json", tmp_path / "page.html"
    write_report(accuracy("tiny"), path)
    old = json.loads(path.read_bytes())
    for field in ("timings", "memory", "energy", "settings", "conditions", "roofline", "peers"):
        old.pop(field)
    path.write_text(json.dumps(old))
    result = bench("report", path, "-o", target)
    assert result.exit_code == 0, result.stderr
    assert Page(target.read_text("utf-8")).said("h1") == ["tiny: accuracy instances"]


def test_what_is_no_report_is_refused(tmp_path: Path, bench: Any) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    result = bench("report", path, "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "is not a report of samclip-bench" in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_reports_of_one_name_keep_their_models_apart(tmp_path: Path) -> None:
    paths = [tmp_path / run / "latency.json" for run in ("old", "new")]
    for path in paths:
        path.parent.mkdir()
        write_report(latency("tiny"), path)
    reports = NamedReports.read([*paths, paths[0]])
    names = ["old/latency", "new/latency", "old/latency (2)"]
    assert [one.name for one in reports.all] == names
    timed = {timing.model for run in reports.timed() for timing in run.of("warm")}
    assert timed == {f"tiny ({name})" for name in names}
