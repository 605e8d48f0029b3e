import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import InputError
from samclip.merge.config.stages import ViewConfig
from samclip.merge.data.views import MIN_SIDE, WHOLE_PHOTO, Colour, View, draw_view, render

CONFIG = ViewConfig(whole=0.25, hue=30)
SIZES = [(400, 600), (600, 400), (9, 500), (500, 9), (5, 5), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_views_lie_inside_the_photo(size: tuple[int, int]) -> None:
    for seed in range(200):
        x0, y0, x1, y1 = draw_view(CONFIG, 64, size, seed).box
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        assert x1 - x0 >= min(MIN_SIDE, size[1])
        assert y1 - y0 >= min(MIN_SIDE, size[0])


def test_a_view_is_a_pure_function_of_its_seed() -> None:
    views = [draw_view(CONFIG, 64, (400, 600), seed) for seed in range(50)]
    assert views == [draw_view(CONFIG, 64, (400, 600), seed) for seed in range(50)]
    assert len({view.to_json() for view in views}) == 50


def test_draws_do_not_depend_on_other_options() -> None:
    plain = msgspec.structs.replace(CONFIG, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    for seed in range(50):
        coloured = draw_view(CONFIG, 64, (400, 600), seed)
        bare = draw_view(plain, 64, (400, 600), seed)
        assert bare == dataclasses.replace(coloured, colour=Colour())


def test_crops_keep_to_scale_and_ratio() -> None:
    config = ViewConfig(scale=(0.2, 0.4), ratio=(0.8, 1.25), whole=0)
    boxes = np.array([draw_view(config, 64, (1000, 1000), seed).box for seed in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = width * height / 1e6, width / height
    assert 0.198 < share.min() < 0.21
    assert 0.39 < share.max() < 0.402
    assert 0.797 < ratio.min() < 0.82
    assert 1.22 < ratio.max() < 1.255
    corners = boxes[:, :2] / (1000 - np.stack([width, height], axis=1))
    assert corners.min() < 0.02
    assert corners.max() > 0.98  # crops come from everywhere


def test_shares_of_whole_and_mirrored_views() -> None:
    views = [draw_view(CONFIG, 64, (400, 600), seed) for seed in range(2000)]
    whole = np.mean([view.box == (0, 0, 600, 400) for view in views])
    assert abs(whole - 0.25) < 0.04  # four standard deviations
    assert abs(np.mean([view.flip for view in views]) - 0.5) < 0.045


def test_colours_are_drawn_from_the_whole_range() -> None:
    views = [draw_view(CONFIG, 64, (400, 600), seed).colour for seed in range(500)]
    for name, low, high in (("brightness", 0.8, 1.2), ("saturation", 0.8, 1.2), ("hue", -30, 30)):
        values = [getattr(colour, name) for colour in views]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)


def test_plain_views_show_the_whole_photo_as_it_is() -> None:
    view = draw_view(WHOLE_PHOTO, 64, (400, 600), seed=3)
    assert view == View((400, 600), (0, 0, 600, 400), 64)


def test_rendered_crop_is_the_crop_resized(photo: NDArray[np.uint8]) -> None:
    height, width = photo.shape[:2]
    view = View((height, width), (100, 50, 300, 150), 64)
    square, size = render(view, photo)
    expected = Image.fromarray(photo).crop((100, 50, 300, 150)).resize((64, 32), 2)
    assert size == (32, 64) == view.shown_size
    assert square.shape == (3, 64, 64)
    assert square.dtype == torch.float32
    assert np.array_equal(square[:, :32].numpy().transpose(1, 2, 0), np.asarray(expected))
    assert float(square[:, 32:].abs().max()) == 0


def test_rendered_mirror_and_colour(photo: NDArray[np.uint8]) -> None:
    view = View((photo.shape[0], photo.shape[1]), (0, 0, 200, 200), 64)
    plain, _ = render(view, photo)
    mirrored, _ = render(dataclasses.replace(view, flip=True), photo)
    assert torch.equal(mirrored, plain.flip(2))
    dark, _ = render(dataclasses.replace(view, colour=Colour(brightness=0.5)), photo)
    assert float((dark - plain / 2).abs().max()) <= 1  # rounded to whole numbers


def test_json_distinguishes_views() -> None:
    view = View((400, 600), (0, 0, 600, 400), 64)
    others = [
        dataclasses.replace(view, **change)
        for change in (
            {"photo_size": (401, 600)},
            {"box": (0, 0, 599, 400)},
            {"size": 65},
            {"flip": True},
            {"colour": Colour(hue=1)},
        )
    ]
    assert len({v.to_json() for v in (view, *others)}) == 6
    assert view.to_json() == View((400, 600), (0, 0, 600, 400), 64).to_json()


def test_a_photo_of_another_size_is_refused() -> None:
    view = View((4, 6), (0, 0, 6, 4), 64)
    with pytest.raises(InputError, match="a photo of 4 x 6 pixels"):
        render(view, np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(InputError, match="has no views"):
        draw_view(CONFIG, 64, (0, 5), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", (0.5, 0.4)),
        ("scale", (0.0, 1.0)),
        ("ratio", (0.0, 1.0)),
        ("whole", 1.5),
        ("contrast", -0.1),
        ("hue", 181),
    ],
)
def test_options_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} of a view"):
        msgspec.structs.replace(CONFIG, **{name: value})


@pytest.mark.parametrize("size", [8, 5000])
def test_squares_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="size of a view"):
        draw_view(CONFIG, size, (400, 600), 0)
