import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samclip.errors import InputError
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.views import WHOLE_PHOTO, draw_view, render
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.image import Letterbox, preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def batch_of(*sizes: tuple[int, int], side: int | None = None) -> PixelBatch:
    generator = torch.Generator().manual_seed(0)
    return PixelBatch.of([torch.rand(3, *size, generator=generator) * 255 for size in sizes], side)


def test_pictures_lie_at_the_top_left_and_come_back() -> None:
    batch = batch_of((4, 6), (5, 2), side=8)
    assert batch.size == 8
    assert len(batch) == 2
    assert batch.sizes.tolist() == [[4, 6], [5, 2]]
    assert batch.picture(1).shape == (3, 5, 2)
    assert float(batch.pixels[0, :, 4:].abs().max()) == 0
    assert float(batch.pixels[0, :, :, 6:].abs().max()) == 0
    assert torch.equal(batch.pick([1, 0]).picture(1), batch.picture(0))


@pytest.mark.parametrize("size", [(400, 600), (600, 400), (17, 600), (333, 334)])
def test_normalised_and_token_mask_are_the_runtimes(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected, letterbox = preprocess(photo, Preprocessing(image_size=224, mean=MEAN, std=STD))
    square, shown = render(draw_view(WHOLE_PHOTO, 224, size, seed=0), photo)
    batch = PixelBatch(square[None], torch.tensor([shown]))
    assert shown == letterbox.input_size
    # Exact up to the rounding of one float32 subtraction and division.
    assert np.abs(batch.normalised(MEAN, STD).numpy() - expected).max() < 1e-6
    for grid in (14, 28):
        assert np.array_equal(batch.token_mask(grid).numpy(), letterbox.token_mask(grid))


def test_token_mask_of_every_size_is_the_letterboxs() -> None:
    sizes = [(h, 56) for h in range(1, 57)]
    masks = PixelBatch(torch.zeros(56, 3, 56, 56), torch.tensor(sizes)).token_mask(7)
    for size, mask in zip(sizes, masks.numpy(), strict=True):
        assert np.array_equal(mask[None], Letterbox(size, size, 56).token_mask(7))


def test_resized_sees_no_padding() -> None:
    batch = PixelBatch.of([torch.full((3, 10, 20), 200.0)], 32)
    assert torch.allclose(batch.resized(12, 12), torch.tensor(200.0), atol=1e-3)


def test_resized_stays_within_the_range_where_bicubic_overshoots() -> None:
    edge = torch.zeros(3, 8, 8)
    edge[:, :, 4:] = 255
    resized = PixelBatch.of([edge]).resized(16, 16)
    assert float(resized.min()) == 0
    assert float(resized.max()) == 255


def test_centred_cuts_the_middle_square() -> None:
    picture = torch.arange(3 * 10 * 20, dtype=torch.float32).reshape(3, 10, 20)
    centred = PixelBatch.of([picture]).centred(0.8)
    assert torch.equal(centred.picture(0), picture[:, 1:9, 6:14])


def test_scaled_scales_square_and_picture_alike() -> None:
    batch = batch_of((40, 64), (64, 33), side=64)
    scaled = batch.scaled(32)
    assert scaled.size == 32
    assert scaled.sizes.tolist() == [[20, 32], [32, 17]]
    assert batch.scaled(64) is batch
    means = [float(b.picture(0).mean()) for b in (batch, scaled)]
    assert abs(means[0] - means[1]) < 1  # of 255: the same picture


@pytest.mark.parametrize(
    ("pixels", "sizes", "message"),
    [
        ((2, 3, 8, 9), (2, 2), "expected Bx3xSxS"),
        ((2, 4, 8, 8), (2, 2), "expected Bx3xSxS"),
        ((2, 3, 8, 8), (1, 2), "a \\(height, width\\) for each"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    pixels: tuple[int, ...], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        PixelBatch(torch.zeros(pixels), torch.ones(sizes, dtype=torch.int64))


def test_of_refuses_nothing_and_too_large() -> None:
    with pytest.raises(InputError, match="no pictures"):
        PixelBatch.of([])
    with pytest.raises(InputError, match="does not fit a square of 8"):
        batch_of((4, 9), side=8)


def test_a_real_photo_round_trips(photo: NDArray[np.uint8]) -> None:
    picture = torch.from_numpy(photo.copy()).permute(2, 0, 1).float()
    batch = PixelBatch.of([picture])
    assert batch.size == max(photo.shape)
    assert torch.equal(batch.picture(0), picture)
