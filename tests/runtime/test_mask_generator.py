from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.errors import ClosedError, ImageError, InputError, PromptError
from samclip.runtime.mask_generator import SamAutomaticMaskGenerator

LOOSE = {"points_per_side": 3, "pred_iou_thresh": 0.75, "stability_score_thresh": 0.5}


def draw_runs(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode uncompressed run lengths, column by column, the first outside the mask: HxW."""
    counts = np.asarray(rle["counts"])
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(rle["size"], order="F")


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools'
def test_every_output_mode_holds_the_masks_of_everything() -> None:
    model = fake_model()
    expected = model.encode(flag()).everything(**LOOSE).records()
    binary = SamAutomaticMaskGenerator(model, **LOOSE).generate(flag())
    runs = SamAutomaticMaskGenerator(model, **LOOSE, output_mode="uncompressed_rle")
    coco = SamAutomaticMaskGenerator(model, **LOOSE, output_mode="coco_rle")
    assert len(binary) == len(expected) > 5
    for one, plain, packed, other in zip(
        binary, runs.generate(flag()), coco.generate(flag()), expected, strict=True
    ):
        mask = one.pop("segmentation")
        assert (mask.shape, mask.dtype) == ((128, 200), np.bool_)
        np.testing.assert_array_equal(mask, other.pop("segmentation"))
        json.dumps([one, plain, packed])
        np.testing.assert_array_equal(draw_runs(plain.pop("segmentation")), mask)
        np.testing.assert_array_equal(coco_mask.decode(packed.pop("segmentation")), mask)
        assert one == plain == packed == other
        assert {type(number) for number in one["bbox"] + one["crop_box"]} == {int}
    assert np.any([record["bbox"][1] == 0 for record in binary])  # some masks begin at the edge


def test_attributes_change_what_comes_next() -> None:
    generator = SamAutomaticMaskGenerator(fake_model(), **LOOSE)
    assert [grid.shape for grid in generator.point_grids] == [(9, 2)]
    assert generator.pred_iou_thresh == 0.75
    before = generator.generate(flag())
    generator.pred_iou_thresh = 0.9
    generator.point_grids = [[(0.5, 0.5)]]
    assert 0 < len(generator.generate(flag())) < len(before)
    generator.output_mode = "coco_rle"
    assert isinstance(generator.generate(flag())[0]["segmentation"], dict)
    generator.crop_n_layers = 1
    with pytest.raises(PromptError, match="list of 2"):
        generator.generate(flag())
    with pytest.raises(AttributeError):
        generator.points_per_side = 8  # type: ignore[attr-defined]


def test_passes_and_the_predictors_image() -> None:
    model = fake_model()
    generator = SamAutomaticMaskGenerator(model, 2, crop_n_layers=1)
    assert [len(grid) for grid in generator.point_grids] == [4, 4]
    generator.predictor.set_image(flag())
    generator.generate(flag()[:, ::-1])
    assert model.encoder_passes == 1 + 5
    assert generator.predictor.is_image_set
    model.close()
    with pytest.raises(ClosedError):
        generator.generate(flag())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_mode": "coco-rle"}, "did you mean 'coco_rle'"),
        ({"output_mode": None}, "output_mode"),
        ({"points_per_side": None}, "got neither"),
        ({"point_grids": [[(0.5, 0.5)]]}, "got both"),
        ({"points_per_side": None, "point_grids": [(0.5, 0.5)]}, "write \\[grid\\]"),
        ({"crop_nms_thresh": "0.7"}, "crop_nms_thresh"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamAutomaticMaskGenerator(fake_model(), **options)
    with pytest.raises(InputError, match=r"samclip\.load"):
        SamAutomaticMaskGenerator("samclip-tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize("image", ["photo.jpg", np.zeros((4, 4)), np.zeros((4, 4, 3)), None])
def test_images_that_are_none(image: Any) -> None:
    with pytest.raises(ImageError):
        SamAutomaticMaskGenerator(fake_model()).generate(image)
