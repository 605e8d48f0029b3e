from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.errors import ImageError
from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.drawing import (
    MAX_LETTERS,
    draw_bars,
    draw_label_map,
    draw_masks,
    save_picture,
    shorten,
)
from samclip.runtime.results.palette import colour

GREY = np.full((120, 160, 3), 128, np.uint8)


def test_masks_are_filled_with_their_colour_and_the_rest_is_left() -> None:
    mask = np.zeros((120, 160), bool)
    mask[20:100, 20:140] = True
    picture = draw_masks(GREY, PackedMasks.pack([mask], (120, 160)), ["x"])
    expected = 0.55 * 128 + 0.45 * np.array(colour(0))
    np.testing.assert_allclose(picture[30, 30], expected, atol=1)
    np.testing.assert_array_equal(picture[5, 5], GREY[5, 5])
    assert picture.flags.writeable
    assert (GREY == 128).all()


def test_prompts_are_marked() -> None:
    nothing = PackedMasks.pack([], (120, 160))
    prompt = Prompt(
        np.array([[40.0, 40], [80, 80]]), np.array([1.0, 0]), np.array([10.0, 10, 150, 110])
    )
    picture = draw_masks(GREY, nothing, [], [prompt])
    assert picture[40, 40].tolist() == [34, 197, 94]
    assert picture[80, 80].tolist() == [239, 68, 68]
    assert (picture[10, 60] != 128).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (7, 5)])
def test_any_size_can_be_drawn_on(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    full = PackedMasks.pack([np.ones(size, bool), np.zeros(size, bool)], size)
    prompt = Prompt(np.array([[0.0, 0], [size[1], size[0]]]), np.ones(2))
    for picture in (
        draw_masks(image, full, ["a", "b"], [prompt], "note"),
        draw_label_map(image, np.full(size, -1, np.int32), ["a"], "note"),
        draw_label_map(image, np.zeros(size, np.int32), ["a"]),
        draw_bars(image, [("a", 1.0, "100%"), ("b", 0.0, "0%")] * 20, "note"),
    ):
        assert picture.shape == image.shape


def test_odd_names_are_written() -> None:
    labels = np.zeros((120, 160), np.int32)
    for name in ("", "狗", "\U0001f600", "a\nb\tc", "x" * 10_000, "é", "\x00"):
        assert draw_label_map(GREY, labels, [name]).shape == GREY.shape
    assert len(shorten("x" * 10_000)) == MAX_LETTERS
    assert shorten(" a \n b ") == "a b"


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")]
)
def test_pictures_are_saved_by_suffix(tmp_path: Path, suffix: str, kind: str) -> None:
    path = save_picture(GREY, tmp_path / f"out.{suffix}")
    with Image.open(path) as saved:
        assert saved.format == kind
        np.testing.assert_allclose(np.asarray(saved), GREY, atol=2)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o444 == 0o444


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    for name in ("out.gif", "out"):
        with pytest.raises(ImageError, match=r"ends in \.png, \.jpg or \.webp"):
            save_picture(GREY, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_picture(GREY, tmp_path / "out.png")
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_picture(GREY // 2, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    pictures = [np.full((50, 50, 3), value, np.uint8) for value in (10, 200)]
    threads = [threading.Thread(target=save_picture, args=(p, path)) for p in pictures * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.unique(np.asarray(Image.open(path))).tolist() in ([10], [200])
