"""Gates on the numpy model of `fakes`, whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, FakeBundle, FakeEngine, fake_manifest, flag
from PIL import Image
from region_fakes import REGION_GRAPHS, region_manifest

from samclip.engines.base import ArrayTensor, Engine, EngineOptions, GraphSource
from samclip.errors import GateError
from samclip.export.precision.gates import LIMITS, Gate, Judgement, enforce_gates
from samclip.progress import SILENT
from samclip.runtime.bundles.manifest import GateRow
from samclip.runtime.model import Model

Change = Mapping[str, float]  # by output: what is added, times noise of size 1


@dataclass
class NoisyEngine(FakeEngine):
    change: Change = field(default_factory=dict)

    def run(
        self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, ArrayTensor]:
        results = super().run(feeds, outputs)
        noise = np.random.default_rng(0)
        for name in results.keys() & self.change.keys():
            array = results[name].numpy()
            added = self.change[name] * noise.standard_normal(array.shape)
            results[name] = ArrayTensor((array + added).astype(np.float32))
        return results


@dataclass
class NoisyBackend(FakeBackend):
    change: Change = field(default_factory=dict)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        return NoisyEngine(source.name, graphs=self.graphs, change=self.change)


def model(change: Change | None = None, **parts: bool) -> Model:
    bundle: Any = FakeBundle(fake_manifest(**parts))
    return Model(bundle, NoisyBackend(change=change or {}), EngineOptions())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "flag.png", tmp_path / "turned.png"]
    for path, image in zip(paths, (flag(), flag()[:, ::-1]), strict=True):
        Image.fromarray(np.ascontiguousarray(image)).save(path)
    return paths


@pytest.fixture
def gate(photos: list[Path]) -> Iterator[Gate]:
    with model() as reference:
        yield Gate(reference, photos, SILENT)


def regions(change: Change | None = None, trained: bool = True) -> Model:
    """The model that names boxes."""
    bundle: Any = FakeBundle(region_manifest(trained=trained))
    backend = NoisyBackend(graphs=REGION_GRAPHS, change=change or {})
    return Model(bundle, backend, EngineOptions())


def judge(gate: Gate, change: Change | None = None) -> Judgement:
    with model(change) as reduced:
        return gate.judge(reduced, "fp16")


def values(judgement: Judgement) -> dict[str, float]:
    return {row.measure: row.value for row in judgement.rows}


def test_the_same_model_agrees_wholly(gate: Gate) -> None:
    judgement = judge(gate)
    assert not judgement.failed
    assert judgement.photos == 2
    assert values(judgement) == pytest.approx(
        {
            "image_embeddings_cosine": 1,
            "image_embed_cosine": 1,
            "patch_embeds_cosine": 1,
            "mask_iou_mean": 1,
            "mask_iou_worst": 1,
            "semantic_agreement": 1,
            "top1_agreement": 1,
        }
    )
    samples = {row.measure: row.samples for row in judgement.rows}
    assert samples["semantic_agreement"] == 2 * 128 * 200
    assert samples["mask_iou_worst"] > samples["top1_agreement"] > 2  # objects are named too


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"image_embeddings": 0.5}, {"image_embeddings_cosine"}),
        ({"image_embed": 300.0}, {"image_embed_cosine"}),
        ({"low_res_masks": 300.0}, {"mask_iou_mean", "mask_iou_worst"}),
        ({"patch_embeds": 300.0}, {"patch_embeds_cosine", "semantic_agreement"}),
    ],
)
def test_what_is_wrong_fails_its_own_gate(gate: Gate, change: Change, failing: set[str]) -> None:
    judgement = judge(gate, change)
    assert {row.measure for row in judgement.failed} == failing
    with pytest.raises(GateError) as caught:
        enforce_gates([judgement])
    for part in (*failing, "fp16", "2 photos", "--keep-fp32", "No bundle was written"):
        assert part in str(caught.value)


@pytest.mark.parametrize("output", ["image_embeddings", "low_res_masks"])
def test_answers_that_are_not_finite_fail_at_once(gate: Gate, output: str) -> None:
    with pytest.raises(GateError, match="No bundle was written") as caught:
        judge(gate, {output: np.nan})
    for part in (repr(output), "fp16", "holds NaN", "--keep-fp32"):
        assert part in str(caught.value)


def test_an_untrained_head_is_compared_but_names_are_not_judged(photos: list[Path]) -> None:
    with model(trained=False) as reference:
        judgement = Gate(reference, photos, SILENT).judge(reference, "fp16")
    assert judgement.skipped == ("names are not judged: the CLIP head was never trained",)
    assert "image_embed_cosine" in values(judgement)
    assert "semantic_agreement" not in values(judgement)


@pytest.mark.parametrize(
    ("parts", "reason"), [({"clip": False}, "no CLIP head"), ({"text": False}, "no text encoder")]
)
def test_without_head_or_text_there_are_masks(
    photos: list[Path], parts: dict[str, bool], reason: str
) -> None:
    with model(**parts) as reference:
        judgement = Gate(reference, photos, SILENT).judge(reference, "int8")
    assert reason in judgement.skipped[0]
    assert values(judgement)["mask_iou_worst"] == 1


def test_the_error_of_int8_says_what_else_helps() -> None:
    row = GateRow(measure="top1_agreement", value=0.9, limit=0.97, samples=50)
    with pytest.raises(GateError, match=r"top1_agreement: 0.9000, at least 0.97.*\n.*--smooth"):
        enforce_gates([Judgement("int8", 4, (row,))])


def test_limits_are_those_that_were_promised() -> None:
    assert LIMITS["fp16"]["image_embeddings_cosine"] == 0.9995
    assert LIMITS["fp16"]["mask_iou_mean"] == 0.995
    assert LIMITS["fp16"]["mask_iou_worst"] == 0.96
    assert LIMITS["fp16"]["semantic_agreement"] == 0.995
    for precision in ("int8", "int8_fp16"):
        assert LIMITS[precision]["patch_embeds_cosine"] == 0.995  # type: ignore[index]
        assert LIMITS[precision]["mask_iou_mean"] == 0.98  # type: ignore[index]
        assert LIMITS[precision]["semantic_agreement"] == 0.98  # type: ignore[index]
        assert LIMITS[precision]["top1_agreement"] == 0.97  # type: ignore[index]


@pytest.mark.parametrize("steepness", [1e-3, 1e-2])
def test_masks_that_fp32_is_not_sure_of_are_not_judged(
    steepness: float, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fakes.STEEPNESS", steepness)  # logits lie about the threshold all over
    with model() as reference:
        unsure = Gate(reference, photos, SILENT)
    judgement = judge(unsure, {"image_embeddings": 0.01})
    assert "mask_iou_mean" not in values(judgement)
    assert "image_embeddings_cosine" in values(judgement)
    assert any("masks are not judged" in reason for reason in judgement.skipped)


def test_without_objects_stable_masks_of_fixed_prompts_are_judged(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fakes.IOUS", (0.5, 0.5, 0.5, 0.5))  # nothing passes as an object
    with model() as reference:
        fixed = Gate(reference, photos, SILENT)
    rows = {row.measure: row for row in judge(fixed).rows}
    assert rows["mask_iou_mean"].value == 1
    assert 0 < rows["mask_iou_mean"].samples <= 20  # five boxes and their centres, two photos
    assert judge(fixed).skipped == ()


def test_a_model_that_names_boxes_is_judged_by_its_masks_and_names(photos: list[Path]) -> None:
    with regions() as reference:
        judgement = Gate(reference, photos, SILENT).judge(reference, "int8")
    assert judgement.skipped == ()
    assert values(judgement) == pytest.approx(
        {
            "image_embeddings_cosine": 1,
            "region_names_cosine": 1,
            "mask_iou_mean": 1,
            "mask_iou_worst": 1,
            "top1_agreement": 1,
        }
    )
    samples = {row.measure: row.samples for row in judgement.rows}
    # A box's mask, and its point's one: half of the masks are named, and the two photos.
    assert samples["top1_agreement"] == samples["mask_iou_worst"] / 2 + 2 > 2


@pytest.mark.parametrize("output", ["logits", "clip_logits", "low_res_masks"])
def test_each_opinion_on_regions_has_a_gate(output: str, photos: list[Path]) -> None:
    with regions() as reference:
        gate = Gate(reference, photos, SILENT)
    with regions({output: 300.0}) as reduced:
        failed = {row.measure for row in gate.judge(reduced, "fp16").failed}
    masks = {"mask_iou_mean", "mask_iou_worst"}
    assert failed == (masks if output == "low_res_masks" else {"region_names_cosine"})


def test_an_untrained_classifier_is_compared_but_names_are_not_judged(photos: list[Path]) -> None:
    with regions(trained=False) as reference:
        judgement = Gate(reference, photos, SILENT).judge(reference, "fp16")
    assert judgement.skipped == (
        "names are not judged: the classifier of regions was never trained",
    )
    assert values(judgement)["region_names_cosine"] == pytest.approx(1)
    assert "top1_agreement" not in values(judgement)


def test_boxes_are_named_where_one_mask_is_nowhere_stable(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fakes.STEEPNESS", 1e-3)
    with regions() as reference:
        judgement = Gate(reference, photos, SILENT).judge(reference, "fp16")
    assert any("masks are not judged" in reason for reason in judgement.skipped)
    samples = {row.measure: row.samples for row in judgement.rows}
    assert samples["top1_agreement"] == 2 * (1 + 5)
