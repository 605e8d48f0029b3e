from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_data import Made, rectangle, save, stripes, write_camvid, write_coco

from samclip.benchmarks.data.label_folder import IGNORED, read_label_folder
from samclip.errors import InputError

PHOTO = stripes(0, 1)


def test_camvid_s_void_is_ignored(tmp_path: Path) -> None:
    labels = np.zeros((256, 256), np.uint8)
    labels[:, 100:] = 2
    labels[:10] = 11
    folder = read_label_folder(write_camvid(tmp_path, {"b": (PHOTO, labels), "a": (PHOTO, labels)}))
    assert folder.layout == "CamVid"
    assert folder.names == ("red", "green", "blue")
    assert [photo.path.name for photo in folder.photos] == ["a.png", "b.png"]
    truth = folder.photos[0].labels()
    assert (truth[:10] == IGNORED).all()
    assert (truth[10:, :100] == 0).all()
    assert (truth[10:, 100:] == 2).all()
    np.testing.assert_array_equal(folder.photos[0].pixels(), PHOTO)


def test_void_may_be_any_number(tmp_path: Path) -> None:
    labels = np.full((256, 256), 1, np.uint8)
    labels[0, 0] = 255
    folder = read_label_folder(write_camvid(tmp_path, {"a": (PHOTO, labels)}, void=255))
    assert folder.photos[0].labels()[0, 0] == IGNORED


def test_of_coco_s_objects_the_smaller_one_shows(tmp_path: Path) -> None:
    objects = [Made("red", rectangle(50, 50, 60, 60)), Made("blue", rectangle(0, 0, 100, 100))]
    objects.append(Made("green", rectangle(200, 200, 256, 256), crowd=True))
    folder = read_label_folder(write_coco(tmp_path, {"a.png": (PHOTO, objects)}))
    truth = folder.photos[0].labels()
    assert folder.layout == "COCO, painted"
    assert (truth[50:60, 50:60] == 0).all()
    assert np.count_nonzero(truth == 2) == 100 * 100 - 10 * 10
    assert np.count_nonzero(truth == IGNORED) == 256 * 256 - 100 * 100


def test_maps_of_other_classes_or_kinds_are_refused(tmp_path: Path) -> None:
    labels = np.full((256, 256), 3, np.uint8)
    folder = read_label_folder(write_camvid(tmp_path, {"a": (PHOTO, labels)}))
    with pytest.raises(InputError, match="the class 3"):
        folder.photos[0].labels()
    save(PHOTO, tmp_path / "labels" / "a.png")
    with pytest.raises(InputError, match="mode RGB"):
        folder.photos[0].labels()
    (tmp_path / "labels" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read"):
        folder.photos[0].labels()
    (tmp_path / "labels" / "a.png").unlink()
    with pytest.raises(InputError, match=r"there is no .*a\.png"):
        read_label_folder(tmp_path)


def test_a_folder_of_neither_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"of CamVid .* of COCO .* PASCAL VOC"):
        read_label_folder(tmp_path)
    write_camvid(tmp_path, {})
    with pytest.raises(InputError, match="no photo"):
        read_label_folder(tmp_path)
    write_camvid(tmp_path, {}, void=256)
    with pytest.raises(InputError, match="<= 255"):
        read_label_folder(tmp_path)
