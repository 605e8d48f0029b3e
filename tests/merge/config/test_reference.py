"""The page of every key against the code: its text, and each range that it states."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tree import ROOT

from samclip.errors import InputError
from samclip.merge.config.reference import COMMAND, PAGE, Key, read_sections, write_page
from samclip.merge.config.run import parse_config

STITCH = {"kind": "stitch", "name": "seam", "hidden": {}, "view": {}}
NAMES = {"kind": "conse", "checkpoint": "c", "text_checkpoint": "t"}
PHOTOS = {"folders": ["photos"]}
MERGED: dict[str, Any] = {
    "name": "run",
    "student": {"checkpoint": "sam"},
    "teachers": {"names": NAMES, "masks": {"checkpoint": "sam"}},
    "data": {"names": PHOTOS, "masks": PHOTOS},
    "evaluation": {},
    "stages": [
        {
            "name": "head",
            "steps": 1,
            "learning_rate": 0.1,
            "train": {"clip_head": 1.0},
            "losses": {"clip": 1.0, "sam": 1.0, "region": 1.0},
            "mask_loss": {},
            "embed_loss": {},
            "instance_loss": {},
            "names": {"batch": 1, "size": 64, "regions": 1, "view": {}},
            "masks": {"batch": 1, "size": 64, "regions": 1},
        },
        STITCH,
    ],
}
OVSAM: dict[str, Any] = {
    **MERGED,
    "student": {
        "checkpoint": "sam",
        "model_type": "ovsam",
        "image_size": 64,
        "sizes": {"width": 1, "depths": [1, 1, 1, 1], "pool_grid": 1, "neck_width": 1,
                  "neck_depth": 1, "neck_heads": 1},
    },
    "data": {"instances": PHOTOS},
    "labels": {},
    "stages": [
        {
            "name": "heads",
            "steps": 1,
            "learning_rate": 0.1,
            "train": {"fpn": 1.0},
            "losses": {"mask": 1.0},
            "instances": {"batch": 1, "size": 64},
        }
    ],
}  # fmt: skip
TEACH: dict[str, Any] = {
    **MERGED,
    "stages": [
        {
            "kind": "teach",
            "name": "taught",
            "region_confidence": {"cosine": 0.03, "cosine_power": 0.5, "size_power": 0.1},
            "vocabulary": "names.txt",
            "sources": [{"kind": "coco", "folder": "coco"}],
        }
    ],
}
# Where a table stands in one of the files; the others are found by their names.
PLACES: dict[str, tuple[dict[str, Any], tuple[str | int, ...]]] = {
    "RunConfig": (MERGED, ()),
    "OvsamSizes": (OVSAM, ("student", "sizes")),
    "SourceConfig": (MERGED, ("data", "names")),
    "InstanceSourceConfig": (OVSAM, ("data", "instances")),
    "TrainStage": (MERGED, ("stages", 0)),
    "StitchStage": (MERGED, ("stages", 1)),
    "TeachStage": (TEACH, ("stages", 0)),
    "RegionConfidence": (TEACH, ("stages", 0, "region_confidence")),
    "LabelSource": (TEACH, ("stages", 0, "sources", 0)),
    "HiddenConfig": (MERGED, ("stages", 1, "hidden")),
    "ViewConfig": (MERGED, ("stages", 0, "names", "view")),
    "Batch": (MERGED, ("stages", 0, "names")),
    "MaskBatch": (MERGED, ("stages", 0, "masks")),
    "InstanceBatch": (OVSAM, ("stages", 0, "instances")),
    "Losses": (MERGED, ("stages", 0, "losses")),
    "MaskLossConfig": (MERGED, ("stages", 0, "mask_loss")),
    "EmbedLossConfig": (MERGED, ("stages", 0, "embed_loss")),
    "InstanceLossConfig": (MERGED, ("stages", 0, "instance_loss")),
    "StudentConfig": (MERGED, ("student",)),
    "NameTeacherConfig": (MERGED, ("teachers", "names")),
    "DataConfig": (MERGED, ("data",)),
    "EvaluationConfig": (MERGED, ("evaluation",)),
}
# Keys that a range alone does not test: what else must change with them.
WITH: dict[tuple[str, str], dict[str, Any]] = {("TrainStage", "epochs"): {"steps": None}}
LITTLE = 1e-6
RANGES: tuple[tuple[str, Any], ...] = (
    (r"multiples of 64 from 64 to 4096", lambda: ([64, 4096], [32, 96, 4160])),
    (r"multiples of 16 from 64 to 4096", lambda: ([64, 4096], [48, 65, 4112])),
    (r"0 < least <= greatest <= 1", lambda: ([[0.1, 1.0]], [[0.0, 1.0], [0.6, 0.5], [0.1, 1.1]])),
    (r"0 < least <= greatest", lambda: ([[0.1, 9.0]], [[0.0, 1.0], [0.6, 0.5]])),
    (r"above ([\d.]+), up to ([\d.]+)", lambda a, b: ([a + LITTLE, b], [a, b + LITTLE])),
    (r"above ([\d.]+), below ([\d.]+)", lambda a, b: ([a + LITTLE, b - LITTLE], [a, b])),
    (r"([\d.]+) to below ([\d.]+)", lambda a, b: ([a, b - LITTLE], [a - LITTLE, b])),
    (r"([\d.]+) to ([\d.]+)", lambda a, b: ([a, b], [a - LITTLE, b + LITTLE])),
    (r"above ([\d.]+)", lambda a: ([a + LITTLE], [a, a - 1])),
    (r"at least ([\d.]+)", lambda a: ([a], [a - 1])),
)  # fmt: skip


def ranged() -> Iterator[Any]:
    for section in read_sections():
        for key in section.keys:
            if key.range:
                yield pytest.param(section.struct.__name__, key, id=f"{section.place} {key.name}")


def samples(key: Key) -> tuple[list[Any], list[Any]]:
    """Return values of a key that its range allows, and others that it does not."""
    text, _, each = key.range.partition(", each")
    each = key.range[len(text) :]
    pattern, make = next((p, m) for p, m in RANGES if re.fullmatch(p, text))
    match = re.fullmatch(pattern, text)
    assert match is not None
    good, bad = make(*map(float, match.groups()))
    if "integer" in key.type and "list" not in key.type:
        good, bad = [int(v) for v in good], [int(v) for v in bad]
    if each and key.type == "table of numbers":
        return [{"clip_head": v} for v in good], [{"clip_head": v} for v in bad]
    if each:
        count = int((re.search(r"list of (\d)", key.type) or [0, "2"])[1])
        kind = int if "integer" in key.type else float
        inside = kind(good[0])
        return (
            [[kind(v)] * count for v in good],
            [[inside] * (count - 1) + [kind(v)] for v in bad],
        )
    return good, bad


def accepted(struct: str, key: Key, value: Any) -> bool:
    base, path = PLACES[struct]
    raw = copy.deepcopy(base)
    table: Any = raw
    for part in path:
        table = table[part]
    table[key.name] = value
    table.update(WITH.get((struct, key.name), {}))
    if struct == "Losses" and key.name in {"mask", "dice", "label"}:
        raw = copy.deepcopy(OVSAM)
        raw["stages"][0]["losses"] = {"mask": 1.0, "dice": 1.0, key.name: value}
    if (struct, key.name) == ("InstanceBatch", "size"):  # both are the student's own
        raw["student"]["image_size"] = value
    for stage in raw["stages"]:
        for name in [name for name, found in stage.items() if found is None]:
            del stage[name]
    try:
        parse_config(raw, "run.toml")
    except InputError:  # of which ConfigError is one
        return False
    return True


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / PAGE).read_text("utf-8") == write_page(), f"run {COMMAND}"


def test_every_key_has_a_meaning_and_every_number_of_a_stage_a_range() -> None:
    for section in read_sections():
        for key in section.keys:
            assert key.meaning.endswith("."), f"{section.place} {key.name}"
            assert key.range or key.name == "seed" or "integer" not in key.type, key.name
            assert key.range or key.type not in {"number", "table of numbers"}, key.name


def test_the_files_that_ranges_are_tried_in_are_valid() -> None:
    for raw in (MERGED, OVSAM):
        assert parse_config(copy.deepcopy(raw), "run.toml").stages


@pytest.mark.parametrize(("struct", "key"), list(ranged()))
def test_ranges_are_those_that_are_checked(struct: str, key: Key) -> None:
    good, bad = samples(key)
    assert [value for value in good if not accepted(struct, key, value)] == []
    assert [value for value in bad if accepted(struct, key, value)] == []
