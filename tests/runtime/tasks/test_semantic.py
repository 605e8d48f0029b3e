from __future__ import annotations

from typing import Any

import cv2
import fakes
import numpy as np
import pytest
from fakes import GRID, IMAGE_SIZE, MASK_SIZE, FakeBackend, fake_model, flag
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from samclip.errors import VocabularyError
from samclip.runtime.features import ClipFeatures
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.tasks import semantic as semantic_module
from samclip.runtime.tasks.semantic import (
    COARSE_LOGIT,
    DROPPED,
    MAX_POINTS,
    MIN_IOU,
    CoarseMap,
    Region,
    _choose_points,
    _find_regions,
    average_alike,
    refine_labels,
)
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

ALL = ["red", "green", "blue"]
TWELVE = tuple(f"n{i}" for i in range(12))


class StillFeatures:
    """Random patch embeddings on a grid, without a model."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], dim: int = 6) -> None:
        self.letterbox = Letterbox.fit(size, IMAGE_SIZE)
        patches = rng.normal(size=(dim, GRID, GRID)).astype(np.float32)
        self._clip = ClipFeatures(patches, self.letterbox.token_mask(GRID)[0], self.letterbox)

    def clip(self) -> ClipFeatures:
        return self._clip


def vocabulary(rng: np.random.Generator, count: int, dim: int = 6) -> Vocabulary:
    embeddings = unit_rows(rng.normal(size=(count, dim)).astype(np.float32))
    return Vocabulary(tuple(f"n{i}" for i in range(count)), embeddings, 20.0, True)


def coarse_map(seed: int, size: tuple[int, int], count: int) -> CoarseMap:
    rng = np.random.default_rng(seed)
    features: Any = StillFeatures(rng, size)
    return CoarseMap(features, vocabulary(rng, count))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(1, 40),
)
def test_argmax_equals_upscaling_every_name(seed: int, size: tuple[int, int], count: int) -> None:
    coarse = coarse_map(seed, size, count)
    full = np.stack([coarse.upscale(one) for one in coarse.cosines])
    labels = coarse.argmax()
    np.testing.assert_array_equal(labels, full.argmax(0))
    scores = coarse.scores(labels)
    probabilities = np.stack([coarse.upscale(coarse.probabilities(i)) for i in range(count)])
    expected = np.take_along_axis(probabilities, labels[None], 0)[0]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-4)


def test_names_that_cannot_win_are_not_upscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = coarse_map(0, (100, 100), 1)
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((GRID, GRID)), (0, 0), 3)
    coarse.cosines = np.stack([smooth - 0.01 * i for i in range(500)]).astype(np.float32)
    calls = []
    whole = coarse.upscale
    monkeypatch.setattr(coarse, "upscale", lambda t: calls.append(1) or whole(t))
    assert (coarse.argmax() == 0).all()
    assert len(calls) < 50


def test_padding_does_not_leak_into_the_border() -> None:
    coarse = coarse_map(3, (70, 256), 4)
    rows = int(np.ceil(70 / 16))
    for row in range(rows, GRID):
        np.testing.assert_array_equal(coarse.cosines[:, row], coarse.cosines[:, rows - 1])


def test_bands_of_colour_get_their_names() -> None:
    answer = fake_model().encode(flag()).semantic(ALL)
    assert answer.labels.shape == (128, 200)
    assert answer.labels.dtype == np.int32
    truth = np.repeat([0, 1, 2], [64, 72, 64])[None].repeat(128, 0)
    assert (answer.labels == truth).mean() > 0.97  # tokens are 12.5 pixels wide
    assert answer.scores.dtype == np.float32
    assert answer.scores[:, [5, 100, 195]].min() > 0.99
    assert answer.refined is False
    assert answer.trained_head is True
    assert answer.present == ("green", "red", "blue")
    assert (answer.mask("red") == (answer.labels == 0)).all()


def test_background_takes_what_is_uncertain() -> None:
    scene = fake_model().encode(flag())
    answer = scene.semantic(ALL, background=0.9)
    assert set(np.unique(answer.labels)) == {-1, 0, 1, 2}
    assert (answer.scores[answer.labels == -1] < 0.9).all()
    assert (answer.scores[answer.labels >= 0] >= 0.9).all()
    assert answer.to_dict()["unlabelled_area"] == (answer.labels == -1).sum()
    for wrong in (-0.1, 1.5, float("nan"), "0.5", [0.5]):
        with pytest.raises(VocabularyError, match="background"):
            scene.semantic(ALL, background=wrong)


@pytest.mark.parametrize("dropped", [0, 5, 11, 12])
def test_denoising_leaves_out_names_that_are_nowhere_likely(dropped: int) -> None:
    rng = np.random.default_rng(5)
    features: Any = StillFeatures(rng, (180, 256))
    names = Vocabulary(TWELVE, vocabulary(rng, 12).embeddings, 4.0, True)
    tokens = unit_rows(features.clip().patch_embeds.reshape(6, -1).T).astype(np.float64)
    inside = features.clip().token_mask.reshape(-1) > 0
    logits = 4.0 * tokens[inside] @ names.embeddings.astype(np.float64).T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # tokens x names
    highest = shares.max(0)
    ranked = np.sort(highest)
    least = 1.0 if dropped == 12 else float(ranked[[dropped - 1, dropped]].mean() if dropped else 0)
    plain, coarse = CoarseMap(features, names), CoarseMap(features, names)
    coarse.denoise(least)
    gone = (highest < least) & (dropped < 12)  # if all would go, none does
    assert gone.sum() == dropped % 12
    probabilities = np.stack([coarse.probabilities(i) for i in range(12)])
    before = np.stack([plain.probabilities(i) for i in range(12)])
    np.testing.assert_array_less(probabilities[gone], 0.01)
    np.testing.assert_array_equal(probabilities[~gone], before[~gone])
    full = np.stack([plain.upscale(one) for one in plain.cosines])
    full[gone] = -9
    np.testing.assert_array_equal(coarse.argmax(), full.argmax(0))
    everywhere = np.ones((GRID, GRID), np.float32)
    assert not gone[coarse.best_inside(everywhere)]


def test_tokens_are_averaged_where_sam_s_embedding_is_alike() -> None:
    rng = np.random.default_rng(7)
    clip = StillFeatures(rng, (70, 256)).clip()  # 5 of 16 rows are of the image
    embedding = rng.normal(size=(5, 2 * GRID, 2 * GRID)) + rng.normal(size=(5, 1, 1))
    found = average_alike(clip, embedding.astype(np.float32))
    inside = [(y, x) for y in range(GRID) for x in range(GRID) if clip.token_mask[y, x]]
    means = {
        (y, x): embedding[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2)) for y, x in inside
    }
    centre = np.mean(list(means.values()), axis=0)
    units = {
        place: (mean - centre) / np.linalg.norm(mean - centre) for place, mean in means.items()
    }
    for y, x in inside[::7]:
        weights = {
            (v, u): np.exp(
                (units[y, x] @ units[v, u] - 1) / 0.2 - ((y - v) ** 2 + (x - u) ** 2) / (2 * 3.0**2)
            )
            for v, u in inside
        }
        total = sum(weight * clip.patch_embeds[:, v, u] for (v, u), weight in weights.items())
        expected = total / sum(weights.values())
        # FP32 against float64
        np.testing.assert_allclose(found.patch_embeds[:, y, x], expected, atol=1e-5)
    assert np.isfinite(found.patch_embeds).all()
    assert found.token_mask is clip.token_mask


@pytest.mark.parametrize("apart", [False, True])
def test_denoising_averages_tokens_that_no_graph_averaged(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = fake_model().encode(flag())
    monkeypatch.setattr(type(scene._features), "names_apart", property(lambda _: apart))
    features, names = scene._features, fake_model().vocabulary(ALL)
    coarse = CoarseMap(features, names)
    coarse.cosines[2] = DROPPED
    found = coarse.averaged(features, names)
    if apart:
        assert found is coarse
        return
    averaged = average_alike(features.clip(), features.image_embeddings()[0])
    expected = CoarseMap(features, names, averaged)
    np.testing.assert_array_equal(found.cosines[:2], expected.cosines[:2])
    assert (found.cosines[2] == DROPPED).all()
    assert np.abs(found.cosines[:2] - coarse.cosines[:2]).max() > 0.01
    np.testing.assert_array_equal(found.probabilities(0), expected.probabilities(0))


def test_denoising_by_the_scene() -> None:
    scene = fake_model().encode(flag()[:, :130])  # without its blue band
    answer = scene.semantic(ALL, denoise=0.5, refine=True)
    assert set(answer.present) == {"red", "green"}
    kept = scene.semantic(["blue"], denoise=1.0)
    assert kept.present == ("blue",)  # all would go, so none does
    for wrong in (-0.1, 1.5, float("nan"), "0.5", [0.5]):
        with pytest.raises(VocabularyError, match="denoise"):
            scene.semantic(ALL, denoise=wrong)


def test_ten_thousand_names_stay_within_memory() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    features: Any = StillFeatures(rng, (200, 256), dim=64)
    many = vocabulary(rng, 10_000, dim=64)
    tracemalloc.start()
    coarse = CoarseMap(features, many)
    coarse._find_candidates()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 10_000 * GRID * GRID * 4  # a few copies of the cosines, none of the image


TRUTH = np.repeat([0, 1, 2], [64, 72, 64])[None].repeat(128, 0)
EDGES = np.array([0, 64, 136, 201]) * IMAGE_SIZE / 200


def bands(iou: float, seen: list[dict[str, NDArray[Any]]] | None = None) -> Any:
    """A decoder that knows the flag: it returns the band that holds the first point."""

    def decode(**feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if seen is not None:
            seen.append(feeds)
        x = np.arange(MASK_SIZE) * 4 + 2.0
        logits = []
        for coords in feeds["point_coords"]:
            band = int(np.searchsorted(EDGES, coords[0, 0], side="right")) - 1
            inside = np.minimum(x - EDGES[band], EDGES[band + 1] - x)
            logits.append(np.tile(inside, (4, MASK_SIZE, 1)))
        ious = np.full((len(logits), 4), iou, np.float32)
        return {"iou_predictions": ious, "low_res_masks": np.asarray(logits, np.float32)}

    return decode


def refined(iou: float, monkeypatch: pytest.MonkeyPatch, **kinds: Any) -> Any:
    monkeypatch.setitem(fakes.GRAPHS, "mask_decoder", bands(iou, **kinds))
    return fake_model().encode(flag()).semantic(ALL, refine=True)


def test_borders_come_from_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = fake_model().encode(flag()).semantic(ALL)
    answer = refined(0.9, monkeypatch)
    assert answer.refined
    errors = (answer.labels != TRUTH).mean()
    assert errors < 0.005  # one column of 200
    assert errors < (coarse.labels != TRUTH).mean() / 2


def test_masks_that_the_decoder_doubts_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = fake_model().encode(flag()).semantic(ALL)
    answer = refined(MIN_IOU - 0.01, monkeypatch)
    np.testing.assert_array_equal(answer.labels, coarse.labels)


def test_a_mask_is_named_by_all_that_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fakes.GRAPHS, "mask_decoder", bands(0.9))
    model = fake_model()
    features = model.encode(flag())._features
    coarse = CoarseMap(features, model.vocabulary(ALL))
    labels = coarse.argmax()
    labels[20:80, 10:50] = 2  # a blue patch inside the red band, that the tokens do not show
    answer = refine_labels(features, coarse, labels)
    assert (answer != TRUTH).mean() < 0.005  # one column of 200


def test_a_prompt_is_points_box_and_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, NDArray[Any]]] = []
    refined(0.9, monkeypatch, seen=seen)
    (feeds,) = seen
    assert feeds["point_labels"].tolist() == [[1] * MAX_POINTS + [2, 3]] * 3
    assert feeds["has_mask_input"].tolist() == [1, 1, 1]
    red = feeds["mask_input"][0, 0]
    assert red[10, 3] == pytest.approx(10)  # of red against green
    assert red[10, 40] == pytest.approx(-10, abs=0.1)
    assert np.abs(feeds["mask_input"]).max() <= 10


def test_one_name_needs_no_decoder() -> None:
    model = fake_model()
    answer = model.encode(flag()).semantic(["green"], refine=True)
    assert (answer.labels == 0).all()
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    assert "mask_decoder" not in backend.engines


def test_regions_are_connected_and_large_enough() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[2:10, 2:10] = 1
    labels[20:28, 20:35] = 1
    labels[0, 39] = 1
    regions = _find_regions(labels, 9)
    assert [(region.index, region.box) for region in regions] == [
        (0, (0, 0, 40, 30)),
        (1, (20, 20, 35, 28)),
        (1, (2, 2, 10, 10)),
    ]
    assert [int(region.inside.sum()) for region in regions] == [1200 - 64 - 120 - 1, 120, 64]


def test_points_lie_inside_and_apart() -> None:
    inside = np.zeros((20, 60), bool)
    inside[:, :20] = True
    inside[:, 40:] = True
    inside[9:11] = True
    region = Region(0, (100, 200, 160, 220), inside)
    points = _choose_points(region, np.ones(inside.shape, np.float32))
    assert points.shape == (3, 2)
    columns, rows = (points - (100, 200)).astype(int).T
    assert inside[rows, columns].all()
    assert (columns < 20).any()
    assert (columns >= 40).any()
    np.testing.assert_array_equal(points, _choose_points(region, np.ones(inside.shape, np.float32)))


def test_a_pixel_gets_one_point() -> None:
    region = Region(0, (5, 6, 6, 7), np.ones((1, 1), bool))
    assert _choose_points(region, np.ones((1, 1), np.float32)).tolist() == [[5.5, 6.5]]


def flat(logit: float) -> Any:
    """A decoder that is sure of nothing: the same logit everywhere, whatever is asked."""

    def decode(**feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
        shape = (len(feeds["point_coords"]), 4, MASK_SIZE, MASK_SIZE)
        ious = np.full(shape[:2], 0.9, np.float32)
        return {"iou_predictions": ious, "low_res_masks": np.full(shape, logit, np.float32)}

    return decode


def refined_square(logit: float, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.int32]:
    """What is left of 3x3 pixels of "blue" in all "red", where a token has 12.5x12.5."""
    monkeypatch.setitem(fakes.GRAPHS, "mask_decoder", flat(logit))
    model = fake_model()
    features = model.encode(flag()).features
    labels = np.zeros((128, 200), np.int32)
    labels[50:53, 20:23] = 2
    coarse = CoarseMap(features, model.vocabulary(ALL))
    return refine_labels(features, coarse, labels)[50:53, 20:23]


def test_a_region_without_a_prompt_stands_with_the_coarse_logit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (refined_square(COARSE_LOGIT - 0.5, monkeypatch) == 2).all()
    # The mask is the whole flag, of which green is the widest band.
    assert (refined_square(COARSE_LOGIT + 0.5, monkeypatch) == 1).all()


def test_regions_beyond_the_largest_stand_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_module, "MAX_PROMPTED_REGIONS", 1)
    monkeypatch.setitem(fakes.GRAPHS, "mask_decoder", flat(COARSE_LOGIT - 0.5))
    coarse = fake_model().encode(flag()).semantic(ALL)
    answer = fake_model().encode(flag()).semantic(ALL, refine=True)
    np.testing.assert_array_equal(answer.labels, coarse.labels)
