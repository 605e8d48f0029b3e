from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import IOUS, fake_model, flag
from region_fakes import region_model

import samclip
from samclip.errors import CapabilityError
from samclip.runtime import engine_pool
from samclip.runtime.bundles.manifest import Variant, base_name
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.predictor import SamPredictor

POINT = np.asarray([(100, 64)])
LOGITS = np.zeros((64, 64), np.float32)


def test_sams_decoder_gives_four_masks_and_what_it_predicts() -> None:
    scene = fake_model().encode(flag())
    assert scene.features.has_multimask
    scene.features.check_multimask("anything")
    assert scene.segment(points=POINT).scores.tolist() == pytest.approx([max(IOUS)])


def test_one_mask_answers_a_lone_point_too() -> None:
    masks = region_model().encode(flag()).segment(points=POINT)
    assert len(masks) == 1
    expected = fake_model().encode(flag()).segment(points=POINT, multimask=False)
    single = fake_model().encode(flag()).segment(points=[(100, 64), (100, 64)])
    np.testing.assert_array_equal(masks.masks, single.masks)  # output 0, of radius 24 too
    assert masks.areas.tolist() == expected.areas.tolist()


def test_its_score_is_the_mean_probability_of_its_foreground() -> None:
    masks = region_model().encode(flag()).segment(points=[[(100, 64)], [(199, 127)]])
    assert masks.low_res_logits is not None
    logits = masks.low_res_logits[:, :41].astype(np.float64)  # 164 of 256 pixels are the image
    for score, one in zip(masks.scores, logits, strict=True):
        assert score == pytest.approx((1 / (1 + np.exp(-one[one > 0]))).mean(), rel=1e-6)


def test_the_predictor_takes_one_mask_if_asked_for_one() -> None:
    predictor = SamPredictor(region_model())
    predictor.set_image(flag())
    masks, scores, low_res = predictor.predict(POINT, np.ones(1), multimask_output=False)
    assert (masks.shape, scores.shape, low_res.shape) == ((1, 128, 200), (1,), (1, 64, 64))
    with pytest.raises(CapabilityError, match=r"multimask_output=True needs .* three masks"):
        predictor.predict(POINT, np.ones(1))


def graphs_of(model: samclip.Model) -> set[tuple[str, int]]:
    """The graphs that were loaded so far, and how many runs share the cores."""
    return {(base_name(graph), streams) for graph, streams in model._pool._engines}


def test_prompts_without_masks_have_graphs_of_their_own(
    lite2_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They answer as the whole decoder does, which masks go to, and every prompt without them."""
    with samclip.load(lite2_bundle, "onnxruntime") as model:
        scene = model.encode(flag())
        clicked = scene.segment(points=POINT, boxes=[(20, 20, 150, 100)], return_logits=True)
        assert graphs_of(model) == {("encoder", 1), ("image_keys", 1), ("point_decoder", 1)}
        assert clicked.low_res_logits is not None
        scene.segment(points=POINT, mask=clicked.low_res_logits)
        assert ("mask_decoder", 1) in graphs_of(model)
        asked = [
            Prompt(POINT.astype(float), np.ones(1), mask=mask) for mask in (None, *[LOGITS] * 2)
        ]
        sizes = [
            [len(batch.rows) for batch in scene.features.batches(each)]
            for each in (asked, [asked[0]] * 3)
        ]
        assert sizes == [[1, 1, 1], [2, 1]]  # the arena would keep what two masks take

    whole = EnginePool.variant

    def without(self: EnginePool, graph: str) -> Variant | None:
        hidden = base_name(graph) in {"image_keys", "point_decoder"}
        return None if hidden else whole(self, graph)

    monkeypatch.setattr(EnginePool, "variant", without)
    with samclip.load(lite2_bundle, "onnxruntime") as model:
        expected = model.encode(flag()).segment(
            points=POINT, boxes=[(20, 20, 150, 100)], return_logits=True
        )
        assert graphs_of(model) == {("encoder", 1), ("mask_decoder", 1)}
    np.testing.assert_allclose(clicked.scores, expected.scores, atol=1e-4)
    assert expected.low_res_logits is not None
    largest = np.abs(expected.low_res_logits).max()  # float32, in another order
    np.testing.assert_allclose(clicked.low_res_logits, expected.low_res_logits, atol=1e-4 * largest)


@pytest.mark.parametrize(
    ("backend", "adaptive"),  # in two passes, as if in one
    [("onnxruntime", False), ("onnxruntime", True), ("openvino", False)],
)
def test_many_prompts_are_decoded_in_two_streams(
    backend: str, adaptive: bool, lite2_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setattr(engine_pool, "usable_cores", lambda: 2)
    monkeypatch.setattr(engine_pool, "RUNS_IN_STREAMS", 16)
    asked: dict[str, Any] = {
        "points_per_side": 4,
        "pred_iou_thresh": 0,
        "stability_score_thresh": 0,
        "adaptive": adaptive,
    }
    with samclip.load(lite2_bundle, backend) as model:
        scene = model.encode(flag())
        found = scene.everything(**asked)
        assert ("point_decoder", 2) in graphs_of(model)
        monkeypatch.setattr(engine_pool, "has_room", lambda size: size < engine_pool.STREAMS_BYTES)
        assert model._pool.streams_for(1024) == 1  # no memory for another engine
        monkeypatch.undo()
        monkeypatch.setattr(engine_pool, "usable_cores", lambda: 2)
        monkeypatch.setattr(engine_pool, "RUNS_IN_STREAMS", 17)
        expected = scene.everything(**asked)
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.prompt_index, expected.prompt_index)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.masks != expected.masks).mean() < 1e-3
    with samclip.load(lite2_bundle, backend, threads=1) as model:
        assert model._pool.streams_for(1024) == 1  # one core alone
    with samclip.load(lite2_bundle, backend, streams=2) as model:
        assert model._pool.streams_for(1024) == 1  # the cores are shared out to images
