from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.errors import InputError
from samclip.merge.config.stages import LabelSource
from samclip.merge.data.label_sources import read_label_source
from tools.label_maps import STREETS, draw_streets, main, read_boxes, read_list, write_maps

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "street.png"
    path.parent.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return path


def test_a_teachers_classes_are_read_by_name_at_the_photos_size(
    tmp_path: Path, photo: Path
) -> None:
    drawn = np.full((4, 4), STREETS.index("road"), np.uint8)
    drawn[:2] = STREETS.index("sky")
    draw_streets(lambda _: drawn, [photo], tmp_path / "drawn")
    [found] = read_label_source(LabelSource(kind="maps", folder=str(tmp_path / "drawn")))
    masks = dict(zip(found.names, found.read(), strict=True))
    assert set(masks) == {"road", "sky"}
    sky = masks["sky"]
    assert sky is not None
    assert sky.shape == (40, 60)
    assert sky[:20].all()
    assert not sky[20:].any()


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(InputError, match="answered class 200"):
        draw_streets(lambda _: np.full((4, 4), 200, np.uint8), [photo], tmp_path / "drawn")


def test_boxes_are_painted_smaller_ones_over_larger_ones(tmp_path: Path, photo: Path) -> None:
    boxes = tmp_path / "boxes.json"
    small, large = ["lamp", 0, 0, 0.5, 0.5], ["wall", 0, 0, 1, 0.75]
    boxes.write_text(json.dumps({photo.name: [small, large]}))
    output = tmp_path / "drawn"
    main(["boxes", str(boxes), "--photos", str(photo.parent), "--output", str(output)])
    [found] = read_label_source(LabelSource(kind="maps", folder=str(output)))
    counts = {
        name: int(mask.sum())
        for name, mask in zip(found.names, found.read(), strict=True)
        if mask is not None
    }
    assert counts == {"lamp": 20 * 30, "wall": 30 * 60 - 20 * 30}


def test_photos_of_the_same_name_are_refused(tmp_path: Path) -> None:
    same = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    with pytest.raises(InputError, match="same name"):
        write_maps(same, [], (), tmp_path / "drawn")


def test_the_files_of_the_recipe_can_be_read() -> None:
    boxes = read_boxes(CONFIGS / "samclip_tiny_boxes.json")
    assert all(
        0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        for one in boxes.values()
        for _, x0, y0, x1, y1 in one
    )
    texts = (CONFIGS / "samclip_tiny_taught.txt").read_text(encoding="utf-8")
    taught = {part.strip() for line in texts.splitlines() for part in line.split(";")}
    assert {box[0] for one in boxes.values() for box in one} <= taught
    listed = read_list(CONFIGS / "samclip_tiny_streets.txt")
    assert len(listed) == len({Path(path).stem for path in listed}) > 0
