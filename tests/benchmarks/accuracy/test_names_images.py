from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from made_data import NAMES, save, stripes

from samclip.baselines import BundleEncoder
from samclip.benchmarks.accuracy.names import CALIBRATION, ImageNamer, evaluate_images, rank
from samclip.benchmarks.data.image_folder import ClassPhoto
from samclip.benchmarks.statistics import calibration_error
from samclip.runtime.text.vocabulary import Vocabulary


class Fixed:
    """Scores every image alike."""

    def __init__(self, *scores: float) -> None:
        self.scores = np.asarray([scores], np.float32)

    def score_images(self, images: list[np.ndarray]) -> np.ndarray:
        return np.repeat(self.scores, len(images), axis=0)


class Turned(BundleEncoder):
    """Has the embeddings of a bundle in another order of their axes."""

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return super().embed_images(images)[:, [2, 0, 1]]


def test_top1_and_top5_by_hand(tmp_path: Path) -> None:
    for number, colour in enumerate((0, 1, 2, 2)):
        save(stripes(colour), tmp_path / f"{number}.png")
    photos = [ClassPhoto(tmp_path / f"{number}.png", number % 3) for number in range(4)]
    model = fake_model()
    corners = model.vocabulary(NAMES).embeddings
    between = [[0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]]  # before blue: red, green, three more
    embeddings = np.concatenate([corners, np.asarray(between, np.float32)])
    vocabulary = Vocabulary((*NAMES, "x", "y", "z"), embeddings, 10.0, True)
    # another encoder, whose space is the first one's with its axes exchanged
    turned = replace(vocabulary, embeddings=embeddings[:, [2, 0, 1]])
    namers = {
        "fake": ImageNamer(BundleEncoder(model), vocabulary),
        "turned": ImageNamer(Turned(model), turned),
    }
    rows = evaluate_images(photos, namers, {"fixed": Fixed(1, 9, 8, 7, 6, 5)})
    found = {(row.model, row.measure): row.value for row in rows}
    assert found["fake", "image top-1"] == 0.75  # the last photo is blue, its class red
    assert found["fake", "image top-5"] == 1.0
    assert found["turned", "image top-1"] == 0.75  # each is compared in its own space
    assert found["fixed", "image top-1"] == 0.25
    assert found["fixed", "image top-5"] == 0.5  # red comes sixth
    assert found["fake / fixed", "image top-1"] == 3.0
    # Calibrated are the shares that `classify` gives, of which the last one is wrong.
    sure = [float(model.encode(p.path).classify(vocabulary).probabilities.max()) for p in photos]
    error = calibration_error(sure, [True, True, True, False], range(4)).value
    assert 0.1 < error < 0.9
    assert found["fake", CALIBRATION] == pytest.approx(error, abs=1e-6)
    assert not any(name in {"turned", "fixed"} for name, kind in found if kind == CALIBRATION)
    assert all((row.n, row.photos, row.subset) == (4, 4, "all photos") for row in rows)


@pytest.mark.parametrize(
    ("scores", "truth", "place"),
    [([1, 3, 2], 1, 0), ([1, 3, 2], 0, 2), ([5, 5, 5], 2, 2), ([5, 5, 5], 0, 0)],
)
def test_ranks(scores: list[float], truth: int, place: int) -> None:
    assert rank(np.asarray(scores), truth) == place
