"""Pictures of samclip carry a mark, so that a later run replaces them and no photo."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.runtime.results.drawing import save_picture
from samclip.runtime.results.mask_files import write_labels, write_masks
from samclip.runtime.results.own_pictures import may_be_replaced

PICTURE = np.full((30, 40, 3), 128, np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
def test_what_is_saved_may_be_replaced(suffix: str, tmp_path: Path) -> None:
    path = save_picture(PICTURE, tmp_path / f"out.{suffix}")
    assert may_be_replaced(path)
    assert np.asarray(Image.open(path)).shape == PICTURE.shape


def test_so_may_masks_and_maps(tmp_path: Path) -> None:
    masks = write_masks([np.ones((3, 4), np.bool_)], 1, tmp_path, "a")
    for count in (3, 300):
        masks.append(write_labels(np.zeros((3, 4), np.int32), count, tmp_path / f"{count}.png"))
    assert all(map(may_be_replaced, masks))


def test_photos_and_other_files_may_not(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    Image.fromarray(PICTURE).save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("important")
    (tmp_path / "folder.png").mkdir()
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe.png")
    assert not any(map(may_be_replaced, tmp_path.iterdir()))


def test_nothing_and_an_empty_file_may(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert may_be_replaced(tmp_path / "empty.png")
    assert may_be_replaced(tmp_path / "absent.png")
