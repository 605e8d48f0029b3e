from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import NAMES, FakeBackend, FakeBundle, FakeEngine, fake_manifest, fake_model
from made_data import save, stripes

from samclip.benchmarks.accuracy.agreement import Side, evaluate_agreement
from samclip.benchmarks.records import Row
from samclip.engines.base import ArrayTensor, Engine, EngineOptions, GraphSource
from samclip.runtime.model import Model

SHRINK = 2  # pixels that the other model's masks lack all around


class OtherEngine(FakeEngine):
    """Masks SHRINK pixels smaller, and features at an angle whose cosine is 0.8 to red and blue."""

    def run(
        self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, ArrayTensor]:
        found = super().run(feeds, outputs)
        if "low_res_masks" in found:
            logits = found["low_res_masks"].numpy() - np.float32(4 * SHRINK)  # fakes' STEEPNESS
            found["low_res_masks"] = ArrayTensor(logits)
        for name in ("patch_embeds", "image_embed"):
            if name in found:
                turned = found[name].numpy().copy()
                red, green, blue = np.moveaxis(turned, 1, 0)
                turned[:, 1] = 0.75 * (red + blue) + green
                found[name] = ArrayTensor(turned)
        return found


@dataclass
class OtherBackend(FakeBackend):
    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        return OtherEngine(source.name)


def other_model() -> Model:
    bundle: Any = FakeBundle(fake_manifest())
    return Model(bundle, OtherBackend(), EngineOptions())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    for name, colours in (("a", (0, 2)), ("b", (2, 0, 0, 2))):
        save(stripes(*colours), tmp_path / f"{name}.png")
    return sorted(tmp_path.iterdir())


def side(name: str, model: Model) -> Side:
    return Side(name, model, model.vocabulary(NAMES))


def by_measure(rows: list[Row]) -> dict[str, Row]:
    assert {row.model for row in rows} == {"other"}
    return {row.measure: row for row in rows}


def test_a_model_agrees_with_itself(photos: list[Path]) -> None:
    reference, other = side("reference", fake_model()), side("other", fake_model())
    rows = by_measure(evaluate_agreement(reference, other, photos))
    assert [row.value for row in rows.values()] == pytest.approx([1.0] * len(rows))
    assert {"SAM embedding cosine", "image embedding cosine", "patch cosine"} <= set(rows)
    assert {"mask IoU", "same label", "same name", "text cosine"} <= set(rows)
    assert rows["mask IoU"].photos == rows["same label"].photos == 2
    assert rows["same name"].n > 2  # the photos, and objects


def test_another_model_by_hand(photos: list[Path]) -> None:
    reference, other = side("reference", fake_model()), side("other", other_model())
    rows = by_measure(evaluate_agreement(reference, other, photos))
    assert rows["SAM embedding cosine"].value == pytest.approx(1)
    assert rows["patch cosine"].value == pytest.approx(0.8, abs=1e-6)  # 1 : 0.75 is 4 : 3
    assert rows["patch cosine, worst"].low is None
    # discs of radius 24 and their boxes, 2 pixels smaller all around
    assert rows["mask IoU"].value == pytest.approx((22 / 24) ** 2, abs=0.05)
    assert rows["mask IoU, worst"].value <= rows["mask IoU"].value
    # 0.6 of green is less than 0.8 of red or of blue, but for half of the 16 pixels in which one
    # goes over into the other: at one border in the one photo, at two in the other
    assert rows["same label"].value == pytest.approx(1 - (8 + 16) / 2 / 256)


def test_other_names_disagree(photos: list[Path]) -> None:
    reference, model = side("reference", fake_model()), fake_model()
    vocabulary = model.vocabulary(NAMES)
    swapped = replace(vocabulary, embeddings=vocabulary.embeddings[[0, 2, 1]])  # blue says green
    rows = by_measure(evaluate_agreement(reference, Side("other", model, swapped), photos))
    assert rows["same label"].value == pytest.approx(0.5, abs=0.05)
    assert rows["text cosine"].value == pytest.approx(1 / 3)
    assert rows["text cosine, worst"].value == 0
    assert rows["patch cosine"].value == pytest.approx(1)


def test_what_cannot_be_compared_is_left_out(photos: list[Path]) -> None:
    reference, model = side("reference", fake_model()), fake_model(clip=False)
    rows = by_measure(evaluate_agreement(reference, Side("other", model, None), photos))
    assert {row.partition(",")[0] for row in rows} == {"SAM embedding cosine", "mask IoU"}
