import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samclip.merge.data.views import GREY, Colour


def applied(colour: Colour, array: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(colour.apply(Image.fromarray(array)), np.float64)


@pytest.fixture(scope="module")
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def test_plain_changes_nothing(noise: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(noise)
    assert Colour().is_plain
    assert Colour().apply(picture) is picture
    assert not Colour(hue=1).is_plain


def test_no_saturation_is_grey(noise: NDArray[np.uint8]) -> None:
    grey = applied(Colour(saturation=0), noise)
    assert np.abs(grey - (noise @ GREY)[..., None]).max() <= 1  # rounded to whole numbers


def test_brightness_multiplies_and_is_cut_off(noise: NDArray[np.uint8]) -> None:
    bright = applied(Colour(brightness=1.5), noise)
    assert np.abs(bright - np.minimum(noise * 1.5, 255)).max() <= 1


def test_contrast_stretches_about_the_middle(noise: NDArray[np.uint8]) -> None:
    flat = applied(Colour(contrast=0.5), noise)
    assert np.abs(flat - (127.5 + (noise - 127.5) * 0.5)).max() <= 1


def test_brightness_comes_before_contrast(noise: NDArray[np.uint8]) -> None:
    both = applied(Colour(brightness=0.8, contrast=0.5), noise)
    assert np.abs(both - (127.5 + (noise * 0.8 - 127.5) * 0.5)).max() <= 1


def test_hue_turns_colours_and_leaves_grey_and_luma(noise: NDArray[np.uint8]) -> None:
    grey = np.full((2, 2, 3), 90, np.uint8)
    assert np.abs(applied(Colour(hue=120), grey) - 90).max() <= 1
    soft = (noise // 8 + 110).astype(np.uint8)  # so that nothing is cut off
    turned = applied(Colour(hue=60), soft)
    assert np.abs(turned - soft).max() > 5
    assert np.abs((turned - soft) @ GREY).max() < 1
    assert np.abs(Colour(hue=360).matrix() - np.eye(3)).max() < 1e-9  # float64
