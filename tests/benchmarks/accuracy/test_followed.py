"""J of objects that are followed: clips on disk, and figures of masks that are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from watch_fakes import SquareModel, SquareScene, masks_of, square

from samclip.benchmarks.accuracy.followed import (
    BOX_TRACKERS,
    FIRST_BOX,
    FOLLOWED,
    FOUND,
    MASKS,
    SWITCHES,
    TRUE_BOX,
    evaluate_followed,
    named,
    read_clips,
)
from samclip.benchmarks.scores import Candidate
from samclip.errors import InputError
from samclip.progress import SILENT
from samclip.runtime.results.masks import Masks


class BoxScene(SquareScene):
    """Answers a box by the box itself, and follows the square exactly."""

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]

    def segment(self, boxes: list, names: object = None) -> Masks:
        x0, y0, x1, y1 = (int(edge) for edge in boxes[0])
        mask = np.zeros(self.size, np.bool_)
        mask[y0:y1, x0:x1] = True
        return masks_of(self.image, [mask])

    def follow(self, memory: object, *_: object) -> Masks:
        return masks_of(self.image, [self.image[..., 0] > 128])


class BoxModel(SquareModel):
    def encode(self, image: np.ndarray) -> BoxScene:
        self.open_scenes += 1
        return BoxScene(self, image)


def write_clip(folder: Path, shift: int, frames: int = 4) -> None:
    (folder / "frames").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(frames):
        image = square(8 + shift * number, 10)
        Image.fromarray(image).save(folder / "frames" / f"{number:05d}.png")
        truth = (image[..., 0] > 128).astype(np.uint8) * 255
        Image.fromarray(truth).save(folder / "masks" / f"{number:05d}.png")


def test_ways_are_judged_against_the_truth(tmp_path: Path) -> None:
    write_clip(tmp_path / "moves", shift=6)
    write_clip(tmp_path / "stays", shift=0)
    clips = read_clips(tmp_path)
    model = BoxModel()
    rows = evaluate_followed(Candidate("squares", model), clips, 4, SILENT)
    found = {(row.model, row.subset): row.value for row in rows if row.measure == "J"}
    for way in (FOLLOWED, MASKS, TRUE_BOX):
        assert found[way, "all clips"] == 1
    # A square of 12 pixels that moved by 6 and by 12, and further: IoU 1/3, 0, 0.
    assert found[FIRST_BOX, "moves"] == pytest.approx(1 / 9)
    assert found[FIRST_BOX, "stays"] == 1
    assert found[FIRST_BOX, "all clips"] == pytest.approx((1 + 1 / 9) / 2)
    for kind in BOX_TRACKERS:
        assert (named(kind), "stays") in found or not hasattr(cv2, f"Tracker{kind}")
    assert 0 < found[named("MIL"), "stays"] <= 1
    counted = {
        (row.measure, row.subset): row.value for row in rows if row.measure in (SWITCHES, FOUND)
    }
    subsets = ("all clips", "moves", "stays")
    assert counted == {
        **{(SWITCHES, subset): 0 for subset in subsets},
        **{(FOUND, subset): 1 for subset in subsets},
    }
    assert model.open_scenes == 0


def test_clips_are_listed_by_name_and_thinned(tmp_path: Path) -> None:
    write_clip(tmp_path / "b", shift=1, frames=7)
    write_clip(tmp_path / "a", shift=1, frames=7)
    clips = read_clips(tmp_path, every=2, limit=3)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert [path.stem for path in clips[0].frames] == ["00000", "00002", "00004"]
    assert [path.stem for path in clips[0].masks] == ["00000", "00002", "00004"]


def test_a_folder_without_clips_or_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clip"):
        read_clips(tmp_path)
    write_clip(tmp_path / "a", shift=1)
    (tmp_path / "a" / "masks" / "00002.png").unlink()
    with pytest.raises(InputError, match=r"00002\.png has no mask"):
        read_clips(tmp_path)
