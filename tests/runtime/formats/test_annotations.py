"""Data sets of every format, read back by the tools that they are for, or as these read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from fakes import fake_model, flag
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import samclip
from samclip.errors import ClosedError, InputError
from samclip.runtime.formats.annotations import FORMATS, AnnotationWriter
from samclip.runtime.photo import changed
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.results.masks import Masks

SIZE = (128, 200)
NAMES = ["cup & <saucer>", 'a "cat"', "größe"]
# pycocotools 2.0.11 decodes with a warning of numpy 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Pixels = NDArray[np.bool_]
Found = dict[str, list[tuple[str, Pixels]]]  # by image: names and masks


def shapes() -> list[Pixels]:
    """A ring, two islands of which one is a single pixel, a blob at the edge, an empty mask."""
    ring = np.zeros(SIZE, np.uint8)
    cv2.circle(ring, (60, 60), 40, 1, -1)
    cv2.circle(ring, (65, 55), 15, 0, -1)
    islands = np.zeros(SIZE, np.uint8)
    cv2.ellipse(islands, (150, 40), (20, 30), 30, 0, 360, 1, -1)
    islands[100, 110] = 1
    edge = np.zeros(SIZE, np.uint8)
    edge[90:, 130:] = 1
    return [mask.astype(np.bool_) for mask in (ring, islands, edge, np.zeros(SIZE))]


def answer_with(masks: list[Pixels], names: list[str] | None) -> Masks:
    known = None if names is None else ["red", "green", "blue"]  # of the fake
    found = fake_model().encode(flag()).segment(boxes=[(5, 5, 50, 120)] * len(masks), names=known)
    fields: dict[str, Any] = {
        "packed": PackedMasks.pack(masks, SIZE),
        "boxes": np.stack([mask_box(mask) for mask in masks]),
    }
    if names is not None:
        fields["vocabulary"] = tuple(names)
        fields["class_ids"] = np.arange(len(masks)) % len(names)
    return changed(found, **fields)


def semantic_map() -> SemanticMap:
    labels = np.full(SIZE, -1, np.int32)
    labels[:60], labels[80:, :90] = 1, 0
    return SemanticMap(
        labels=labels,
        names=(NAMES[2], NAMES[0], "never there"),
        scores=np.full(SIZE, 0.75, np.float32),
        refined=False,
        trained_head=True,
        image=flag(),
    )


def write(kind: Any, folder: Path, photo: Path) -> None:
    """Four samples: named, nothing found, a map with other names, masks that follow tracks."""
    with AnnotationWriter(kind, folder) as writer:
        writer.add("street.png", answer_with(shapes(), NAMES), source=photo)
        writer.add("a/empty.jpg", answer_with(shapes(), NAMES)[:0])
        writer.add(Path("a/street.jpg"), semantic_map())
        writer.add("b/street.jpg", answer_with(shapes()[:2], NAMES), tracks=[70, 8])
    assert writer.count == 4


EXPECTED: Found = {
    "street.png": list(zip(NAMES, shapes()[:3], strict=True)),
    "a/empty.jpg": [],
    "a/street.jpg": [(name, semantic_map().mask(name)) for name in (NAMES[2], NAMES[0])],
    "b/street.jpg": list(zip(NAMES[:2], shapes()[:2], strict=True)),
}
STEMS = {"street": "street.png", "empty": "a/empty.jpg"} | {
    "street-2": "a/street.jpg",
    "street-3": "b/street.jpg",
}


def iou(one: Pixels, other: Pixels) -> float:
    return float((one & other).sum() / (one | other).sum())


def read_yolo(folder: Path) -> Found:
    """By supervision, which like ultralytics fills outlines after cutting points to pixels."""
    import supervision

    data = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images"),
        annotations_directory_path=str(folder / "labels"),
        data_yaml_path=str(folder / "data.yaml"),
        force_masks=True,
    )
    found: Found = {}
    for path, detections in data.annotations.items():
        named = [data.classes[index] for index in detections.class_id]
        masks = [] if detections.mask is None else list(np.asarray(detections.mask))
        found[STEMS[Path(path).stem]] = list(zip(named, masks, strict=True))
    return found


def read_coco(folder: Path) -> Found:
    coco = COCO(str(folder / "annotations.json"))
    return {
        image["file_name"]: [
            (coco.cats[each["category_id"]]["name"], coco.annToMask(each).astype(np.bool_))
            for each in coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        ]
        for number, image in coco.imgs.items()
    }


def read_labelme(folder: Path) -> Found:
    """As `labelme.utils.shape_to_mask` does: Pillow fills each polygon, islands by `group_id`."""
    found: Found = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        with Image.open(folder / record["imagePath"]) as image:
            assert image.size == (record["imageWidth"], record["imageHeight"]) == SIZE[::-1]
        objects: dict[int, tuple[str, Pixels]] = {}
        for shape in record["shapes"]:
            assert shape["shape_type"] == "polygon"
            canvas = Image.new("L", SIZE[::-1])
            points = [(x, y) for x, y in shape["points"]]
            ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
            label, mask = objects.get(shape["group_id"], (shape["label"], np.zeros(SIZE, bool)))
            objects[shape["group_id"]] = label, mask | (np.asarray(canvas) > 0)
        found[STEMS[path.stem]] = list(objects.values())
    return found


def read_cvat(folder: Path) -> Found:
    """As CVAT's documentation of the format says."""
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    known = [label.text for label in root.iterfind("meta/task/labels/label/name")]
    assert known == [*NAMES, "never there"]
    found: Found = {}
    for image in root.iterfind("image"):
        assert (int(image.attrib["height"]), int(image.attrib["width"])) == SIZE
        objects = found.setdefault(image.attrib["name"], [])
        for each in image.iterfind("mask"):
            left, top, width, height = (
                int(each.attrib[key]) for key in ("left", "top", "width", "height")
            )
            runs = [int(run) for run in each.attrib["rle"].split(",")]
            flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            mask = np.zeros(SIZE, np.bool_)
            mask[top : top + height, left : left + width] = flat.reshape(height, width)
            objects.append((each.attrib["label"], mask))
    return found


def read_pngs(folder: Path) -> Found:
    classes = (folder / "classes.txt").read_text("utf-8").splitlines()
    found: Found = {}
    for path in folder.glob("*.png"):
        labels = np.asarray(Image.open(path))
        values = [int(value) for value in np.unique(labels) if value != 255]
        found[STEMS[path.stem]] = [(classes[value], labels == value) for value in values]
    return found


def read_detections(folder: Path) -> Found:
    """By supervision: what a row has makes the same `Detections` as `to_supervision`."""
    rows = json.loads((folder / "detections.json").read_text("utf-8"))
    found: Found = {"a/empty.jpg": []}  # an image without objects has no row
    for row in rows:
        mask = coco_mask.decode(row["segmentation"]).astype(np.bool_)
        found.setdefault(row["image"], []).append((row["class_name"], mask))
    return found


# The least IoU of the masks that are one island, and of the one of two.
READERS: dict[str, tuple[Callable[[Path], Found], float, float]] = {
    "yolo": (read_yolo, 0.999, 0.95),  # a line joins the islands
    "coco": (read_coco, 1.0, 1.0),
    "labelme": (read_labelme, 0.97, 0.97),  # outlines may be a pixel off
    "cvat": (read_cvat, 1.0, 1.0),
    "mask-png": (read_pngs, 1.0, 1.0),
    "supervision-json": (read_detections, 1.0, 1.0),
}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    Image.fromarray(flag()).save(path)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_reads_back(kind: str, tmp_path: Path, photo: Path) -> None:
    write(kind, tmp_path / "out", photo)
    read, *limits = READERS[kind]
    found = read(tmp_path / "out")
    assert set(found) == set(EXPECTED)
    for name, objects in EXPECTED.items():
        assert sorted(label for label, _ in found[name]) == sorted(label for label, _ in objects)
        for label, mask in objects:
            least = limits[label == NAMES[1]]
            assert max(iou(mask, other) for own, other in found[name] if own == label) >= least


@pytest.mark.parametrize("kind", ["yolo", "labelme"])
def test_pictures_are_copies_or_the_pixels(kind: Any, tmp_path: Path, photo: Path) -> None:
    write(kind, tmp_path / "out", photo)
    folder = tmp_path / "out" / ("images" if kind == "yolo" else "")
    assert (folder / "street.png").read_bytes() == photo.read_bytes()
    frame = cv2.imread(str(folder / "street-3.jpg"))[:, :, ::-1]
    assert np.abs(frame.astype(int) - flag()).mean() < 2  # JPEG of quality 95


def test_the_rows_of_supervision_are_those_of_its_sink(tmp_path: Path) -> None:
    import supervision

    masks = answer_with(shapes()[:3], NAMES)
    with AnnotationWriter("supervision-json", tmp_path / "out") as writer:
        writer.add("street.jpg", masks, tracks=[4, 5, 6])
    rows = json.loads((tmp_path / "out" / "detections.json").read_text("utf-8"))
    detections = masks.to_supervision()
    detections.tracker_id = np.array([4, 5, 6])
    with supervision.JSONSink(str(tmp_path / "sink.json")) as sink:
        sink.append(detections, {"image": "street.jpg"})
    expected = json.loads((tmp_path / "sink.json").read_text("utf-8"))
    added = [row.pop("segmentation") for row in rows]
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    assert len(added) == 3


def test_tracks_reach_every_format_that_has_them(tmp_path: Path, photo: Path) -> None:
    for kind in ("coco", "labelme", "cvat"):
        write(kind, tmp_path / kind, photo)
    coco = json.loads((tmp_path / "coco" / "annotations.json").read_text("utf-8"))
    assert [each.get("track_id") for each in coco["annotations"]][-2:] == [70, 8]
    labelme = json.loads((tmp_path / "labelme" / "street-3.json").read_text("utf-8"))
    assert [shape["group_id"] for shape in labelme["shapes"]] == [70, 8, 8]
    root = ElementTree.parse(tmp_path / "cvat" / "annotations.xml").getroot()
    assert [each.get("group_id") for each in root.iter("mask")][-2:] == ["70", "8"]


def test_masks_without_names(tmp_path: Path) -> None:
    masks = answer_with(shapes()[:3], None)
    for kind in FORMATS:
        with AnnotationWriter(kind, tmp_path / kind) as writer:
            writer.add("street.jpg", masks)
    yolo = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text("utf-8"))
    assert yolo["names"] == {0: "object"}
    labels = np.asarray(Image.open(tmp_path / "mask-png" / "street.png"))
    assert not (tmp_path / "mask-png" / "classes.txt").exists()
    for number, mask in enumerate(shapes()[:3]):  # they do not overlap
        np.testing.assert_array_equal(labels == number, mask)
    rows = json.loads((tmp_path / "supervision-json" / "detections.json").read_text("utf-8"))
    assert {(row["class_id"], row["class_name"]) for row in rows} == {(0, "object")}


def test_names_that_break_files_do_not(tmp_path: Path) -> None:
    """Control characters, a byte that is not UTF-8, an emoji, what YAML and XML give a meaning."""
    hostile = ["a\x85b\x00", "\udcff", "\U0001f680: - {", "#", "'yes'", "null", "]]>"]
    masks = answer_with(shapes()[:1] * len(hostile), NAMES)
    masks = changed(masks, vocabulary=tuple(hostile), class_ids=np.arange(len(hostile)))
    shown = ["a\\x85b\\x00", "\\xff", *hostile[2:]]
    for kind in FORMATS:
        with AnnotationWriter(kind, tmp_path / kind) as writer:
            writer.add("x\udcfe.jpg", masks)
    yolo = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text("utf-8"))
    assert list(yolo["names"].values()) == shown
    root = ElementTree.parse(tmp_path / "cvat" / "annotations.xml").getroot()
    assert [each.attrib["label"] for each in root.iter("mask")] == shown
    classes = (tmp_path / "mask-png" / "classes.txt").read_text("utf-8").split("\n")
    assert classes == [*shown, ""]
    for file in ("coco/annotations.json", "supervision-json/detections.json"):
        json.loads((tmp_path / file).read_text("utf-8"))


def test_a_stream_that_breaks_off_leaves_what_came(tmp_path: Path) -> None:
    masks = answer_with(shapes(), NAMES)
    for kind, (read, *_) in READERS.items():
        with pytest.raises(KeyboardInterrupt), AnnotationWriter(kind, tmp_path / kind) as writer:  # type: ignore[arg-type]
            writer.add("street.png", masks)
            raise KeyboardInterrupt
        if kind != "cvat":  # whose reader expects all names
            assert len(read(tmp_path / kind)["street.png"]) == 3
        left = [path for path in (tmp_path / kind).rglob("*") if ".partial" in path.name]
        assert not left


def test_what_is_refused(tmp_path: Path) -> None:
    masks = answer_with(shapes(), NAMES)
    with pytest.raises(InputError, match=r"one of yolo, coco.*did you mean 'yolo'"):
        AnnotationWriter("yol", tmp_path / "out")  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"not empty: it holds mine\.txt"):
        AnnotationWriter("yolo", tmp_path / "full")
    with pytest.raises(InputError, match="Not a directory"):
        AnnotationWriter("yolo", tmp_path / "full" / "mine.txt")
    with AnnotationWriter("yolo", tmp_path / "out") as writer:
        writer.add("a.jpg", masks)
        for name, answer, options, message in (
            ("a.jpg", masks, {}, "already"),
            ("", masks, {}, "the image's name"),
            ("a\0.jpg", masks, {}, "stem"),
            ("b.jpg", flag(), {}, "got ndarray"),
            ("b.jpg", masks, {"tracks": [1, 2]}, "tracks must be 4 whole numbers"),
            ("b.jpg", semantic_map(), {"tracks": [1]}, "belong to masks"),
            ("b.jpg", masks, {"source": tmp_path / "gone.jpg"}, "cannot be copied"),
        ):
            with pytest.raises(InputError, match=message):
                writer.add(name, answer, **options)  # type: ignore[arg-type]
    assert writer.close() == tmp_path / "out"
    with pytest.raises(ClosedError):
        writer.add("c.jpg", masks)
    assert samclip.AnnotationWriter is AnnotationWriter
