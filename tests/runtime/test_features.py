from __future__ import annotations

import numpy as np
import pytest
from fakes import IOUS, fake_model, flag
from region_fakes import region_model

from samclip.errors import CapabilityError
from samclip.runtime.predictor import SamPredictor

POINT = np.asarray([(100, 64)])


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
