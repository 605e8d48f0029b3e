from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from fakes import GRID, IMAGE_SIZE, fake_model, flag
from hypothesis import given, settings
from hypothesis import strategies as st

from samclip.errors import VocabularyError
from samclip.runtime.features import ClipFeatures
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.tasks.semantic import CoarseMap
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

ALL = ["red", "green", "blue"]


class StillFeatures:
    """Random patch embeddings on a grid, without a model."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], dim: int = 6) -> None:
        self.letterbox = Letterbox.fit(size, IMAGE_SIZE)
        patches = rng.normal(size=(dim, GRID, GRID)).astype(np.float32)
        self._clip = ClipFeatures(patches[:, 0, 0], patches, self.letterbox.token_mask(GRID)[0])

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
