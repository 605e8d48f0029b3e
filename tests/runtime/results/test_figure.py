"""Figures: small images are enlarged, names are listed below."""

from __future__ import annotations

import numpy as np
import pytest

from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.figure import LEAST_WIDTH, MOST_ENTRIES, Entry, Frame, make_figure
from samclip.runtime.results.palette import colour


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("size", "factor"), [((24, 32), 10), ((1, 1), 320), ((160, 20), 2), ((161, 20), 1)]
)
def test_small_images_are_enlarged_in_figures_only(size: tuple[int, int], factor: int) -> None:
    assert Frame(grey(*size), legend=False).factor == 1
    frame = Frame(grey(*size), legend=True)
    assert frame.image.shape == (size[0] * factor, size[1] * factor, 3)
    mask = np.zeros(size, np.bool_)
    mask[0, 0] = True
    (larger,) = frame.enlarge_masks(PackedMasks.pack([mask], size))
    assert larger.sum() == factor**2
    assert larger[:factor, :factor].all()


@pytest.mark.parametrize("size", [(321, 481), (1, 3000), (3000, 1), (300, 40)])
@pytest.mark.parametrize("share", [None, 0.5])
def test_every_name_has_its_colour_below_the_picture(
    size: tuple[int, int], share: float | None
) -> None:
    entries = [Entry(f"name {i}" * 5, f"{i}%", colour(i), share) for i in range(8)]
    figure = make_figure(grey(*size), entries)
    assert figure.shape[1] == max(size[1], LEAST_WIDTH)
    below = figure[size[0] :]
    for entry in entries:
        assert (below == entry.colour).all(axis=-1).sum() > 80
    assert (below[:, [0, -1]] == 255).all()
    left = (figure.shape[1] - size[1]) // 2
    np.testing.assert_array_equal(figure[: size[0], left : left + size[1]], grey(*size))


def test_long_lists_end_and_nothing_stays_as_it_is() -> None:
    entries = [Entry("name", "", colour(i)) for i in range(60)]
    many = make_figure(grey(100, 240), entries)
    most = make_figure(grey(100, 240), entries[:MOST_ENTRIES])
    assert most.shape[0] < many.shape[0] < most.shape[0] + 60
    assert make_figure(grey(10, 10), []).shape == (10, 10, 3)
    assert (make_figure(grey(10, 240), [], "a note")[-1] == (185, 28, 28)).all()
