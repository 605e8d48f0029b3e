"""SAM's masks named by a second model; with the fake model's colours every answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import fake_model, flag

from samclip.baselines import BaselineScene, BundleEncoder, CropFeature, CropImage, cut
from samclip.errors import CapabilityError, ClosedError, InputError, PromptError
from samclip.runtime.model import Model

ALL = ("red", "green", "blue")
BOXES = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]


def crop_image(sam: Model, clip: Model) -> CropImage:
    return CropImage(sam, BundleEncoder(clip), clip.vocabulary)


def crop_feature(sam: Model, clip: Model) -> CropFeature:
    return CropFeature(sam, BundleEncoder(clip), clip.vocabulary)


@pytest.fixture(params=[crop_image, crop_feature])
def scene(request: pytest.FixtureRequest) -> BaselineScene:
    """A flag encoded by either baseline; the bundle of SAM has no CLIP head."""
    return request.param(fake_model(clip=False, text=False), fake_model()).encode(flag())


def test_masks_are_sam_s_and_names_the_other_model_s(scene: BaselineScene) -> None:
    masks = scene.segment(boxes=BOXES, names=ALL)
    alone = fake_model().encode(flag()).segment(boxes=BOXES)
    np.testing.assert_array_equal(masks.masks, alone.masks)
    np.testing.assert_array_equal(masks.scores, alone.scores)
    assert masks.names == ALL
    assert masks.trained_head is True
    assert scene.segment(boxes=BOXES).names is None


def test_masks_that_exist_are_named(scene: BaselineScene) -> None:
    mask = np.zeros((128, 200), bool)
    mask[:, 150:] = True
    assert scene.name(mask, ALL).names == ("blue",)
    assert scene.name(np.zeros((0, 128, 200), bool), ALL).names == ()
    assert len(scene.name(np.zeros((1, 128, 200), bool), ALL)) == 1
    with pytest.raises(PromptError):
        scene.name(mask[:50], ALL)


def test_the_scene_shows_its_image_and_ends(scene: BaselineScene) -> None:
    assert scene.size == (128, 200)
    np.testing.assert_array_equal(scene.image, flag())
    with scene:
        assert len(scene.segment(points=[(100, 60)])) == 1
    with pytest.raises(ClosedError):
        scene.segment(boxes=BOXES)
    with pytest.raises(ClosedError):
        scene.name(np.ones((128, 200), bool), ALL)


def test_crop_image_makes_a_pass_for_every_mask() -> None:
    sam, clip = fake_model(clip=False), fake_model()
    scene = crop_image(sam, clip).encode(flag())
    scene.segment(boxes=BOXES)
    assert (sam.encoder_passes, clip.encoder_passes) == (1, 0)
    scene.segment(boxes=BOXES, names=ALL)
    assert (sam.encoder_passes, clip.encoder_passes) == (1, 3)


def test_crop_feature_makes_one_more_pass_when_names_are_asked_for() -> None:
    sam, clip = fake_model(clip=False), fake_model()
    scene = crop_feature(sam, clip).encode(flag())
    scene.segment(boxes=BOXES)
    assert (sam.encoder_passes, clip.encoder_passes) == (1, 0)
    scene.segment(boxes=BOXES, names=ALL)
    scene.name(np.ones((128, 200), bool), ALL)
    assert (sam.encoder_passes, clip.encoder_passes) == (1, 1)


def test_crop_feature_of_the_same_bundle_is_the_merged_answer() -> None:
    model = fake_model()
    ours = model.encode(flag()).segment(boxes=[(32, 0, 96, 128), *BOXES], names=ALL)
    theirs = crop_feature(model, model).encode(flag())
    again = theirs.segment(boxes=[(32, 0, 96, 128), *BOXES], names=ALL)
    assert again.names == ours.names
    np.testing.assert_array_equal(again.name_probabilities, ours.name_probabilities)


def test_a_margin_lets_crops_see_more() -> None:
    clip = fake_model()
    box = (70, 30, 130, 100)  # all green
    for margin, green_alone in ((0.0, True), (0.5, False)):
        model = CropImage(fake_model(), BundleEncoder(clip), clip.vocabulary, margin)
        (share,) = model.encode(flag()).segment(boxes=box, names=ALL).name_probabilities  # type: ignore[misc]
        assert bool(share > 0.99) is green_alone
    with pytest.raises(InputError, match="margin"):
        CropImage(fake_model(), BundleEncoder(clip), clip.vocabulary, -0.1)


def test_a_bundle_without_a_clip_head_names_nothing() -> None:
    sam = fake_model(clip=False)
    scene = CropImage(sam, BundleEncoder(sam), fake_model().vocabulary).encode(flag())
    with pytest.raises(CapabilityError):
        scene.segment(boxes=BOXES, names=ALL)


@pytest.mark.parametrize(
    ("box", "margin", "size"),
    [
        ((10, 20, 30, 50), 0.0, (30, 20)),
        ((10.2, 20.9, 29.1, 49.5), 0.0, (30, 20)),  # every pixel that it touches
        ((10, 20, 30, 50), 0.5, (60, 40)),
        ((0, 0, 20, 30), 0.5, (45, 30)),  # as far as the image goes
        ((-50, -50, 900, 900), 0.0, (128, 200)),
        ((10, 20, 10, 20), 0.0, (128, 200)),  # nothing: the whole image
        ((300, 20, 310, 30), 0.0, (128, 200)),
    ],
)
def test_crops(box: tuple[float, ...], margin: float, size: tuple[int, int]) -> None:
    assert cut(flag(), box, margin).shape[:2] == size
