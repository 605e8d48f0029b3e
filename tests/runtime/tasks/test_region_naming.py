from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import MASK_SIZE, NAMES, FakeBackend, FakeBundle, flag
from msgspec.structs import replace
from numpy.typing import NDArray
from region_fakes import REGION_GRAPHS, region_model

from samclip.engines.base import EngineOptions
from samclip.errors import (
    BundleError,
    CapabilityError,
    ClosedError,
    InputError,
    InputWarning,
    UntrainedHeadWarning,
    VocabularyError,
)
from samclip.runtime.bundles.manifest import TensorSpec
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.runtime.tasks import region_naming
from samclip.runtime.tasks.region_naming import clip_weights, fused_probabilities, masks_on_grid

BANDS = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]  # red, green, blue
BY_CLIP = ("green", "blue", "red")  # the colours after those


@pytest.fixture
def model() -> Model:
    return region_model()


@pytest.fixture
def scene(model: Model) -> Scene:
    return model.encode(flag())


def test_without_a_split_clip_names(scene: Scene) -> None:
    masks = scene.segment(boxes=BANDS, names=NAMES)
    assert masks.names == BY_CLIP
    assert masks.vocabulary == NAMES
    assert masks.class_ids is not None
    assert masks.class_ids.dtype == np.int64
    assert masks.trained_head is True
    assert masks.name_probabilities is not None
    assert masks.name_probabilities.dtype == np.float32
    assert ((masks.name_probabilities > 0.8) & (masks.name_probabilities < 1)).all()


def test_the_classifier_names_what_it_has_seen(model: Model, scene: Scene) -> None:
    all_seen = model.vocabulary(NAMES, seen=NAMES)
    assert scene.segment(boxes=BANDS, names=all_seen).names == NAMES
    none_seen = model.vocabulary(NAMES, seen=[])
    assert scene.segment(boxes=BANDS, names=none_seen).names == BY_CLIP


@pytest.mark.parametrize("pooled", [False, True])
def test_points_are_named_by_their_masks(pooled: bool) -> None:
    scene = region_model(pooled=pooled).encode(flag())
    masks = scene.segment(points=[[(30, 60)], [(100, 60)], [(170, 60)]], names=NAMES)
    assert masks.names == BY_CLIP


def test_a_mask_alone_is_named_by_what_was_found(scene: Scene) -> None:
    low_res = scene.segment(boxes=BANDS).low_res_logits
    assert low_res is not None
    masks = scene.segment(mask=low_res, names=NAMES)
    assert masks.names == BY_CLIP


def test_masks_from_elsewhere_are_named_by_their_boxes(scene: Scene) -> None:
    drawn = scene.segment(boxes=BANDS)
    assert scene.name(drawn, NAMES).names == BY_CLIP
    assert scene.name(drawn.masks, NAMES).names == BY_CLIP
    assert scene.name(drawn.masks[0], NAMES).names == BY_CLIP[:1]


def test_a_mask_that_covers_no_cell_of_clips_is_the_classifiers(scene: Scene) -> None:
    thin = np.zeros((128, 200), bool)
    thin[:, 78:81] = True  # in the green band, between the centres of cells of 25 pixels
    assert scene.name(thin, NAMES).names == ("green",)
    thin[:, 72:100] = True
    assert scene.name(thin, NAMES).names == ("blue",)


def test_an_empty_mask_is_named_by_its_prompt(scene: Scene) -> None:
    nothing = np.full((MASK_SIZE, MASK_SIZE), -1e6)
    masks = scene.segment(points=[(170, 60)], mask=nothing, names=NAMES)
    assert masks.areas.tolist() == [0]
    assert masks.scores.tolist() == [0]
    assert masks.names == ("blue",)  # no cell: the classifier's
    middle = scene.name(np.zeros((128, 200), bool), NAMES)
    assert middle.names == ("green",)


def test_the_whole_image_is_classified_by_clip(model: Model) -> None:
    red = np.zeros((100, 60, 3), np.uint8)
    red[..., 0] = 200
    answer = model.encode(red).classify(NAMES)
    assert answer.best == "green"
    assert answer.logits.tolist() == pytest.approx([0, 10, 0], abs=1e-5)
    assert answer.probabilities.sum() == pytest.approx(1)
    assert answer.trained_head is True


def test_one_pass_serves_all(model: Model, scene: Scene) -> None:
    scene.segment(points=[(30, 60)], names=NAMES)
    scene.name(scene.segment(boxes=BANDS), NAMES)
    scene.classify(NAMES)
    assert model.encoder_passes == 1
    backend: Any = model._pool.backend
    assert len(backend.engines["encoder"].batches) == 1
    assert set(backend.engines) == {"encoder", "mask_decoder", "roi_classifier", "clip_roi"}


def test_many_masks_go_in_bounded_batches(model: Model, scene: Scene) -> None:
    masks = scene.segment(boxes=BANDS * 15, names=NAMES)
    assert masks.names == BY_CLIP * 15
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    for graph in ("roi_classifier", "clip_roi"):
        assert backend.engines[graph].batches == [16, 16, 13]


def test_many_texts_go_in_bounded_batches(
    model: Model, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(InputWarning, match="share one probability: 'red' and 'green'; 'red'"):
        names = model.vocabulary([*NAMES, *NAMES], synonyms={"red": ["green"]})
    whole = scene.segment(boxes=BANDS, names=names)
    monkeypatch.setattr(region_naming, "MAX_TEXTS", 3)
    parts = scene.segment(boxes=BANDS, names=names)
    assert parts.names == whole.names
    np.testing.assert_array_equal(parts.name_probabilities, whole.name_probabilities)


def test_the_best_synonym_counts(model: Model, scene: Scene) -> None:
    vocabulary = model.vocabulary(["red", "green"], synonyms={"green": ["blue"]})
    masks = scene.segment(boxes=BANDS, names=vocabulary)
    assert masks.names == ("green", "green", "red")  # CLIP says green, blue, red
    assert scene.classify(vocabulary).names == ("red", "green")


def test_no_masks_get_no_names(scene: Scene) -> None:
    masks = scene.segment(boxes=np.zeros((0, 4)), names=NAMES)
    assert (len(masks), masks.names) == (0, ())


def test_what_needs_more_than_regions_is_refused(scene: Scene) -> None:
    for ask in (
        lambda: scene.segment(boxes=BANDS, multimask=True),
        scene.everything,
        lambda: scene.semantic(NAMES),
        lambda: scene.patch_embeds,
    ):
        with pytest.raises(CapabilityError, match="or choose another bundle"):
            ask()


def test_a_vocabulary_is_final(model: Model) -> None:
    made = model.vocabulary(NAMES)
    assert model.vocabulary(made) is made
    for given in ({"seen": ["red"]}, {"synonyms": {"red": ["green"]}}):
        with pytest.raises(VocabularyError, match="embedded already"):
            model.vocabulary(made, **given)  # type: ignore[arg-type]


def test_attacks(scene: Scene) -> None:
    for names in ([], ["purple\0"], "red", [1]):
        with pytest.raises((VocabularyError, CapabilityError)):
            scene.segment(boxes=BANDS, names=names)  # type: ignore[arg-type]
    scene.close()
    for ask in (
        lambda: scene.segment(boxes=BANDS, names=NAMES),
        lambda: scene.name(np.ones((128, 200), bool), NAMES),
        lambda: scene.classify(NAMES),
    ):
        with pytest.raises(ClosedError):
            ask()


def test_parts_that_do_not_fit_are_refused() -> None:
    model = region_model()
    inputs = model.manifest.graphs.clip_roi
    assert inputs is not None
    unknown = TensorSpec(name="c6", dtype="float32", shape=())
    odd = replace(inputs, inputs=(unknown, *inputs.inputs))
    graphs = replace(model.manifest.graphs, clip_roi=odd)
    bundle: Any = FakeBundle(replace(model.manifest, graphs=graphs))
    broken = Model(bundle, FakeBackend(graphs=REGION_GRAPHS), EngineOptions())
    with pytest.raises(BundleError, match="encoder of bundle 'fake' has no output c6"):
        broken.encode(flag()).segment(boxes=BANDS, names=NAMES)
    without: Any = FakeBundle(replace(model.manifest, graphs=replace(graphs, clip_roi=None)))
    lacking = Model(without, FakeBackend(graphs=REGION_GRAPHS), EngineOptions())
    with pytest.raises(CapabilityError, match="has no clip_roi graph"):
        lacking.encode(flag()).classify(NAMES)


def test_an_untrained_classifier_warns() -> None:
    with pytest.warns(UntrainedHeadWarning):
        masks = region_model(trained=False).encode(flag()).segment(boxes=BANDS, names=NAMES)
    assert masks.trained_head is False


Array = NDArray[np.float64]


def softmax(rows: Array) -> Array:
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def reference(head: Array, clip: Array, weights: Array) -> Array:
    """The formula as it is written, with powers of probabilities, in float64."""
    zero = np.zeros((len(head), 1))
    ours, theirs = softmax(np.hstack([head, zero])), softmax(np.hstack([clip, zero]))
    return softmax(np.log(ours ** (1 - weights) * theirs**weights))[:, :-1]


def logits(regions: int, classes: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(0, 5, (regions, classes))


@pytest.mark.parametrize("split", [None, [True, False, False, True, True]])
def test_equals_the_formula(split: list[bool] | None) -> None:
    head, clip = logits(7, 5, seed=0), logits(7, 5, seed=1)
    seen = None if split is None else np.asarray(split)
    weights = clip_weights(seen, 5)
    found = fused_probabilities(head, clip, weights)
    assert found.dtype == np.float32
    assert np.allclose(found, reference(head, clip, weights.astype(float)), atol=1e-6)
    assert (found.sum(axis=1) < 1).all()  # what is left is the background's


def test_weights() -> None:
    assert clip_weights(None, 2).tolist() == pytest.approx([0.9, 0.9, 0.1])
    assert clip_weights(np.asarray([True, False]), 2).tolist() == pytest.approx([0.1, 0.9, 0.1])


def test_seen_classes_follow_the_head_and_unseen_ones_clip() -> None:
    head, clip = np.asarray([[30.0, 26.0]]), np.asarray([[26.0, 30.0]])
    for seen, best in (([True, True], 0), ([False, False], 1)):
        weights = clip_weights(np.asarray(seen), 2)
        assert fused_probabilities(head, clip, weights).argmax() == best


def test_where_clip_sees_nothing_the_head_decides_alone() -> None:
    head, clip = logits(2, 4, seed=2), logits(2, 4, seed=3)
    weights = clip_weights(None, 4)
    found = fused_probabilities(head, clip, weights, np.asarray([False, True]))
    alone = softmax(np.hstack([head, np.zeros((2, 1))]))[:, :-1]
    assert np.allclose(found[0], alone[0], atol=1e-6)
    assert np.allclose(found[1], fused_probabilities(head, clip, weights)[1])


def test_nothing_underflows() -> None:
    """Cosines of -1 and 1, times 100, where powers of probabilities would be 0."""
    head, clip = np.asarray([[-100.0, 100.0]]), np.asarray([[100.0, -100.0]])
    found = fused_probabilities(head, clip, clip_weights(None, 2))
    assert np.isfinite(found).all()
    assert found.argmax() == 0


def test_no_regions() -> None:
    empty = np.zeros((0, 3))
    assert fused_probabilities(empty, empty, clip_weights(None, 3)).shape == (0, 3)


def test_misfits_are_refused() -> None:
    weights = clip_weights(None, 3)
    with pytest.raises(InputError, match="do not fit"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 4)), weights)
    with pytest.raises(InputError, match="do not fit"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 3)), weights[:-1])
    with pytest.raises(InputError, match="on_grid"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 3)), weights, np.ones(3, bool))
    with pytest.raises(InputError, match="expected NxK"):
        fused_probabilities(np.zeros(3), np.zeros((2, 3)), weights)
    with pytest.raises(InputError, match="seen"):
        clip_weights(np.ones(2, bool), 3)


def interpolated_somewhere(mask: Array, cells: int) -> bool:
    """Linear interpolation at each cell's centre, pixel centres at half."""
    factor = len(mask) / cells
    for row in range(cells):
        for column in range(cells):
            y, x = (row + 0.5) * factor - 0.5, (column + 0.5) * factor - 0.5
            top, left = int(y), int(x)
            near = mask[top : top + 2, left : left + 2]
            weight = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            if (near * weight).sum() > 0:
                return True
    return False


@pytest.mark.parametrize(("side", "cells"), [(32, 4), (32, 16), (24, 4)])
def test_masks_on_grid(side: int, cells: int) -> None:
    masks = np.random.default_rng(0).normal(-2.2, 2, (40, side, side)).astype(np.float32)
    found = masks_on_grid(masks, cells)
    assert found.tolist() == [interpolated_somewhere(m.astype(float), cells) for m in masks]
    assert found.sum() > 0
    assert not masks_on_grid(-np.abs(masks), cells).any()


def test_a_mask_between_the_centres_covers_no_cell() -> None:
    mask = np.full((1, 32, 32), -1.0, np.float32)
    mask[0, 0, :] = 5
    assert not masks_on_grid(mask, 4)[0]


@pytest.mark.parametrize("shape", [(2, 32, 31), (32, 32), (1, 30, 30), (1, 4, 4)])
def test_masks_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cells"):
        masks_on_grid(np.zeros(shape), 4)
