from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_model
from made_data import NAMES, Made, rectangle, stripes, write_coco
from region_fakes import region_model

from samclip.baselines import BundleEncoder, CropFeature, CropImage
from samclip.benchmarks.accuracy import named_masks
from samclip.benchmarks.accuracy.named_masks import (
    UNTRAINED,
    MaskNamer,
    PromptTask,
    comparison_tables,
    evaluate_baselines,
)
from samclip.benchmarks.data.coco import CocoFolder, read_coco
from samclip.benchmarks.formats import as_fast
from samclip.benchmarks.records import Row
from samclip.benchmarks.tables import Table
from samclip.runtime.text.names import mark_seen

Found = dict[tuple[str, str, str], Row]


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    objects = [Made("red", rectangle(0, 0, 64, 64)), Made("green", rectangle(160, 0, 224, 64))]
    photos = {name: (stripes(0, 2), objects) for name in ("a.png", "b.png")}
    return read_coco(write_coco(tmp_path, photos))


def found_in(rows: list[Row]) -> Found:
    found = {(row.model, row.measure, row.subset): row for row in rows}
    assert len(found) == len(rows), "two rows of one name"
    return found


def test_all_contenders_answer_the_same_boxes(coco: CocoFolder) -> None:
    merged, sam, clip = fake_model(), fake_model(clip=False), fake_model()
    vocabulary = clip.vocabulary(NAMES)
    encoder = BundleEncoder(clip)
    contenders = {
        "merged": MaskNamer(merged, merged.vocabulary(NAMES)),
        "crop-image": MaskNamer(CropImage(sam, encoder, clip.vocabulary), vocabulary),
        "crop-feature": MaskNamer(CropFeature(sam, encoder, clip.vocabulary), vocabulary),
    }
    found = found_in(evaluate_baselines(contenders, coco.photos, PromptTask(NAMES, apart="green")))
    for name in contenders:
        assert found[name, "box mIoU", "all objects"].value == pytest.approx(1, abs=0.02)
        # what is called green is blue
        assert found[name, "box name top-1", "all objects"].value == 0.5
        assert found[name, "box name top-1", "all objects, without green"].value == 1.0
        seconds = found[name, "box seconds a photo", "all photos"]
        assert seconds.unit == "seconds"
        assert seconds.n == 2
        assert seconds.value is not None
        assert seconds.value > 0
        assert found[name, "vision parameters", "all graphs"].value is None  # nothing counts them
    assert found["merged / crop-image", "box name top-1", "all objects"].value == 1.0
    assert found["merged / crop-feature", "box seconds a photo", "all photos"].unit == "ratio"
    assert not any("classes" in subset for _, _, subset in found)  # no split was given
    # the first photo is answered twice
    assert (merged.encoder_passes, sam.encoder_passes) == (3, 6)
    assert clip.encoder_passes == 3 * 2 + 3  # two crops a photo, and a pass over it


def test_points_are_answered_by_passes_of_their_own(coco: CocoFolder) -> None:
    merged = fake_model()
    task = PromptTask(NAMES, ("box", "point"))
    contenders = {"merged": MaskNamer(merged, merged.vocabulary(NAMES))}
    found = found_in(evaluate_baselines(contenders, coco.photos, task))
    assert merged.encoder_passes == 2 * 2 + 1
    # of three discs the surest, of radius 24, in the middle of a square of 64
    expected = 3.1416 * 24**2 / 64**2
    assert found["merged", "point mIoU", "all objects"].value == pytest.approx(expected, abs=0.02)
    assert found["merged", "point name top-1", "all objects"].value == 0.5
    assert {kind for _, kind, _ in found if "seconds" in kind} == {
        "box seconds a photo",
        "point seconds a photo",
    }


def test_base_classes_are_told_as_seen_to_who_fuses_two_opinions(coco: CocoFolder) -> None:
    """The fake's classifier says red of red, its CLIP green; so the split decides who is right."""
    regions, merged = region_model(), fake_model()
    task = PromptTask(NAMES, novel={NAMES.index("green")})

    def top1(seen: list[str] | None) -> dict[str, float | None]:
        own = replace(regions.vocabulary(NAMES), seen=mark_seen(NAMES, seen))
        contenders = {
            "merged": MaskNamer(merged, merged.vocabulary(NAMES)),
            "regions": MaskNamer(regions, own),
        }
        found = found_in(evaluate_baselines(contenders, coco.photos, task))
        assert found["merged", "box name top-1", "base classes"].value == 1.0
        assert found["merged", "box mIoU", "novel classes"].value == pytest.approx(1, abs=0.02)
        assert found["merged", "box mIoU", "novel classes"].n == 2
        parts = ("base classes", "novel classes")
        return {part: found["regions", "box name top-1", part].value for part in parts}

    assert top1(["red", "blue"]) == {"base classes": 1.0, "novel classes": 0.0}
    assert top1([]) == {"base classes": 0.0, "novel classes": 0.0}


class Counts:
    """What a meter of graphs is, with figures that are known."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def begin(self) -> None:
        pass

    def end(self, kind: str) -> None:
        self.kinds.append(kind)

    def macs(self, kind: str) -> int:
        return {"box": 6_000_000_000, "point": 8_000_000_000}[kind]

    def parameters(self) -> int:
        return 12_000_000


def test_the_table_has_the_shape_of_the_papers(coco: CocoFolder) -> None:
    merged, other, counts = fake_model(), fake_model(), Counts()
    meter: Any = counts
    contenders = {
        "merged": MaskNamer(merged, merged.vocabulary(NAMES), meter),
        "other": MaskNamer(other, other.vocabulary(NAMES)),
    }
    task = PromptTask(NAMES, ("box", "point"), novel={1})
    rows = evaluate_baselines(contenders, coco.photos, task)
    assert counts.kinds == ["box", "point"] * 2  # the answer that warms up is not counted
    box, point = comparison_tables(rows, {"other"})
    shown, line = lines_of(box)
    assert list(shown)[:4] == ["model", "mIoU, all", "mIoU, base", "mIoU, novel"]
    assert shown["model"] == "merged"
    assert (shown["name top-1, base"], shown["name top-1, novel"]) == ("1.000", "0.000")
    assert shown["against merged"] == "1.00x as fast"
    assert (shown["M parameters"], shown["GMACs a photo"]) == ("12.0", "3.0")
    assert lines_of(point)[0]["GMACs a photo"] == "4.0"
    assert line["model"] == f"other ({UNTRAINED})"
    assert (line["M parameters"], line["GMACs a photo"]) == ("-", "-")
    ratio = found_in(rows)["merged / other", "box seconds a photo", "all photos"].value
    assert ratio is not None
    assert line["against merged"] == as_fast(1 / ratio)
    assert point.title == "prompt: point"


def lines_of(table: Table) -> list[dict[str, str]]:
    heads = [column.head for column in table.columns]
    return [dict(zip(heads, line, strict=True)) for line in table.texts()]


def test_models_take_turns() -> None:
    names = ("a", "b", "c")
    assert [named_masks._turns(names, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(named_masks._turns(names, 1)) == ["a", "b", "c"]
