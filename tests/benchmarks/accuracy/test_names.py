from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from made_data import NAMES, Made, rectangle, stripes, write_coco

from samclip.baselines import BundleEncoder
from samclip.benchmarks.accuracy import names
from samclip.benchmarks.accuracy.names import ImageNamer, evaluate_names
from samclip.benchmarks.data.coco import CocoPhoto, read_coco
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import Candidate
from samclip.errors import InputError

PHOTO = stripes(0, 1, 2, 0)  # red, green, blue, red, 64 pixels each


@pytest.fixture
def photos(tmp_path: Path) -> tuple[CocoPhoto, ...]:
    """Four objects: red, blue, one called green that is red, and a small one, green in blue."""
    objects = [
        Made("red", rectangle(0, 0, 64, 64)),
        Made("blue", rectangle(128, 0, 192, 256)),
        Made("green", rectangle(200, 10, 250, 60)),
        # its box is its mask, yet with a margin the crop is blue as much as green
        Made("green", rectangle(112, 0, 128, 32)),
    ]
    return read_coco(write_coco(tmp_path, {"a.png": (PHOTO, objects)})).photos


def shares(
    rows: list[Row], measure: str = names.TOP1
) -> dict[tuple[str, str], tuple[float | None, int]]:
    return {(row.model, row.subset): (row.value, row.n) for row in rows if row.measure == measure}


class Blue:
    """Sees blue in everything."""

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        return np.tile(np.asarray([0, 0.1, 5], np.float32), (len(images), 1))


def test_top1_by_hand(photos: tuple[CocoPhoto, ...]) -> None:
    model = fake_model()
    asked = model.vocabulary(NAMES)
    croppers = {"crops": ImageNamer(BundleEncoder(model), asked), "blue": ImageNamer(Blue(), asked)}
    swapped = replace(asked, embeddings=asked.embeddings[[1, 0, 2]])  # red is called green
    against = {"with templates none": swapped}
    rows = evaluate_names(
        Candidate("fake", model), photos, asked, croppers, against=against, apart="green"
    )
    found = shares(rows)
    assert found["fake in one pass", "all objects"] == (0.75, 4)
    assert found["fake in one pass", "area > 1,024 px"] == (pytest.approx(2 / 3), 3)
    assert found["fake in one pass", "all objects, without green"] == (1.0, 2)
    assert found["fake in one pass", "area > 1,024 px, without green"] == (1.0, 2)
    assert found["crops", "all objects"] == (0.75, 4)
    assert found["blue", "all objects"] == (0.25, 4)
    assert found["blue", "all objects, without green"] == (0.5, 2)
    assert found["fake in one pass / blue", "all objects"] == (3.0, 4)
    # Right: blue, and the red object that is called green. Of the same pass.
    assert found["fake with templates none", "all objects"] == (0.5, 4)
    assert found["fake in one pass / fake with templates none", "all objects"] == (1.5, 4)
    assert model.encoder_passes == 1 + 4
    # Shares are nearly 1 everywhere, and a quarter of the answers is wrong.
    sure = shares(rows, names.CALIBRATION)
    assert sure["fake in one pass", "all objects"] == (pytest.approx(0.25, abs=1e-3), 4)
    assert sure["fake in one pass", "area > 1,024 px, without green"] == (
        pytest.approx(0, abs=1e-3),
        2,
    )
    assert not any(model == "crops" for model, _ in sure)


def test_a_margin_shows_the_surroundings(photos: tuple[CocoPhoto, ...]) -> None:
    seen: list[tuple[int, ...]] = []

    class Sizes(Blue):
        def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
            seen.extend(image.shape for image in images)
            return super().embed_images(images)

    model = fake_model()
    asked = model.vocabulary(NAMES)
    croppers = {"sizes": ImageNamer(Sizes(), asked)}
    arguments = (Candidate("fake", model), photos, asked, croppers)
    evaluate_names(*arguments, margin=0.5)
    assert seen == [(96, 96, 3), (256, 128, 3), (85, 81, 3), (48, 32, 3)]
    with pytest.raises(InputError, match="margin"):
        evaluate_names(*arguments, margin=-1)


def test_a_class_that_is_not_there_is_not_set_apart(photos: tuple[CocoPhoto, ...]) -> None:
    model = fake_model()
    rows = evaluate_names(Candidate("fake", model), photos, model.vocabulary(NAMES), {})
    assert {row.subset for row in rows} == {"all objects", "area > 1,024 px"}


def test_masks_go_in_parts(photos: tuple[CocoPhoto, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model()
    arguments = (Candidate("fake", model), photos, model.vocabulary(NAMES), {})
    whole = evaluate_names(*arguments)
    monkeypatch.setattr(names, "MASKS_AT_ONCE", 3)
    assert evaluate_names(*arguments) == whole
