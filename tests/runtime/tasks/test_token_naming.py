from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import MASK_SIZE, fake_model, flag

import samclip
from samclip.runtime.bundles.manifest import Confidence
from samclip.runtime.pixels.image import Letterbox, photo_paths
from samclip.runtime.tasks.token_naming import TokenSpread, sharpness

ALL = ("red", "green", "blue")


def test_masks_take_the_name_of_what_they_cover() -> None:
    scene = fake_model().encode(flag())
    boxes = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]
    masks = scene.segment(boxes=boxes, names=ALL)
    assert masks.names == ALL
    assert masks.vocabulary == ALL
    assert masks.class_ids is not None
    assert masks.class_ids.tolist() == [0, 1, 2]
    assert masks.trained_head is True
    assert masks.name_probabilities is not None
    assert (masks.name_probabilities > 0.99).all()  # softmax of 10 against 0, 0


def test_a_mask_across_two_bands_is_half_of_each() -> None:
    scene = fake_model().encode(flag())
    masks = scene.segment(boxes=(32, 0, 96, 128), names=["red", "green"])
    assert masks.name_probabilities is not None
    assert masks.name_probabilities[0] == pytest.approx(0.5, abs=0.1)


def test_a_patch_counts_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = fake_model().encode(flag())
    clip = scene.features.clip()
    sure = clip.patch_embeds * np.where(np.arange(clip.patch_embeds.shape[2]) < 6, 3, 1)
    louder = replace(clip, patch_embeds=sure.astype(np.float32))  # red, in the columns to the left
    monkeypatch.setattr(scene.features, "clip", lambda: louder)
    masks = scene.segment(boxes=(32, 0, 96, 128), names=["red", "green"])
    assert masks.names == ("red",)
    assert masks.name_probabilities is not None
    assert masks.name_probabilities[0] > 0.9


def test_a_tiny_mask_takes_its_token() -> None:
    scene = fake_model().encode(flag())
    masks = scene.segment(boxes=(160, 60, 164, 64), names=ALL)
    assert masks.names == ("blue",)


def test_an_empty_mask_takes_the_token_of_its_prompt() -> None:
    scene = fake_model().encode(flag())
    nothing = np.full((MASK_SIZE, MASK_SIZE), -1e6)
    masks = scene.segment(boxes=(140, 10, 190, 60), mask=nothing, names=ALL)
    assert masks.areas.tolist() == [0]
    assert masks.names == ("blue",)


def test_weights_are_shares_of_area() -> None:
    letterbox = Letterbox.fit((64, 128), 64)  # two pixels a pixel, 8 tokens of 8x8
    spread = TokenSpread(letterbox, letterbox.token_mask(8)[0])
    mask = np.zeros((64, 128), bool)
    mask[0:16, 0:24] = True  # token (0, 0) whole, token (0, 1) half
    weights = spread.weights(mask, None)
    expected = np.zeros((8, 8))
    expected[0, :2] = 2 / 3, 1 / 3
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_weights_equal_counting_pixels() -> None:
    letterbox = Letterbox.fit((50, 73), 64)
    spread = TokenSpread(letterbox, letterbox.token_mask(4)[0])
    mask = np.random.default_rng(0).random((50, 73)) > 0.6
    fine = 64  # every pixel cut into so many parts a side
    rows = (np.arange(50 * fine) + 0.5) / fine * letterbox.input_size[0] / 50 / 16
    columns = (np.arange(73 * fine) + 0.5) / fine * letterbox.input_size[1] / 73 / 16
    by_row = np.zeros((4, 50))
    np.add.at(by_row, (rows.astype(int), np.arange(50 * fine) // fine), 1)
    by_column = np.zeros((4, 73))
    np.add.at(by_column, (columns.astype(int), np.arange(73 * fine) // fine), 1)
    expected = by_row @ mask @ by_column.T
    np.testing.assert_allclose(spread.weights(mask, None), expected / expected.sum(), atol=2e-3)


def test_weights_of_any_mask_sum_to_one() -> None:
    letterbox = Letterbox.fit((30, 64), 64)
    spread = TokenSpread(letterbox, letterbox.token_mask(4)[0])
    for centre in (None, np.array([63.0, 29.0]), np.array([0.0, 0.0])):
        weights = spread.weights(np.zeros((30, 64), bool), centre)
        assert weights.sum() == 1
        assert weights[2:].sum() == 0  # padding
    assert spread.weights(np.zeros((30, 64), bool), np.array([63.0, 29.0]))[1, 3] == 1


def test_the_shipped_head_is_less_sure_of_small_regions_and_of_high_cosines() -> None:
    """Shares of names follow the formula of `Confidence`, here computed from its parts in FP64."""
    names = ["cup", "spoon", "table", "cat"]
    with samclip.load("samclip-tiny", "onnxruntime") as model:
        head = model.manifest.clip_head
        assert head is not None
        sure = head.confidence
        assert sure is not None
        scene = model.encode(photo_paths()[2])  # the cup of coffee, 600x400: 1.71 pixels a pixel
        masks = np.zeros((3, 400, 600), np.bool_)
        masks[0, 40:300, 180:400] = masks[1, 0:8, 0:8] = True
        masks[2, 100:104, 100:104] = True  # below an eighth of a token
        vocabulary = model.vocabulary(names)
        named = scene.name(masks, vocabulary)
        cosines = np.asarray(vocabulary.cosines(scene.embed_masks(masks)), np.float64)
        whole = scene.classify(vocabulary)
        image_cosines = np.asarray(vocabulary.cosines(scene.image_embed[None])[0], np.float64)
    assert head.image_confidence > 1
    logits = vocabulary.logit_scale * head.image_confidence * image_cosines
    np.testing.assert_allclose(whole.logits, logits, atol=1e-4)  # of up to some 30, in float32
    shares = np.exp(logits - logits.max())
    np.testing.assert_allclose(whole.probabilities, shares / shares.sum(), atol=1e-4)
    tokens = np.maximum(masks.sum(axis=(1, 2)) * (1024 / 600) ** 2 / 32**2, 1 / 8)
    highest = np.maximum(cosines.max(axis=1), 0.01)
    factors = (highest / sure.cosine) ** -sure.cosine_power * tokens**sure.size_power
    logits = vocabulary.logit_scale * factors[:, None] * cosines
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
    assert named.name_probabilities is not None
    # float32, and resized pixels that a token's edge cuts: a hundredth of a share at most
    np.testing.assert_allclose(named.name_probabilities, expected, atol=0.01)
    assert np.array_equal(np.asarray(named.class_ids), cosines.argmax(axis=1))


def test_how_sure_a_head_is_has_bounds() -> None:
    sure = Confidence(cosine=0.04, cosine_power=0.5, size_power=0.5)
    cosines = np.float32([[0.01, 0.04], [0.16, 0.0], [-0.3, -0.2], [0.04, 0.04]])
    tokens = np.float32([1, 4, 1, 0])
    found = sharpness(sure, tokens, cosines)
    # a cosine below 0.01 counts as 0.01, and fewer than 1/8 tokens as 1/8
    np.testing.assert_allclose(found, [1, 1, 2, np.sqrt(1 / 8)], rtol=1e-6)
