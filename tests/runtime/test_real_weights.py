"""Real MobileSAM weights behind the public API: one pass, all tasks, many threads."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import samclip
from samclip.runtime.results.drawing import save_picture

NAMES = ["a cup", "a dog", "a table"]


@pytest.fixture(scope="module")
def model(
    mobile_sam_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[samclip.Model]:
    cache = tmp_path_factory.mktemp("cache")
    with samclip.load(mobile_sam_bundle, threads=2, cache_dir=cache) as model:
        yield model


@pytest.fixture(scope="module")
def scene(model: samclip.Model, photo: NDArray[np.uint8]) -> samclip.Scene:
    return model.encode(photo)


@pytest.mark.filterwarnings("ignore::samclip.UntrainedHeadWarning")
def test_one_pass_serves_all_tasks(
    model: samclip.Model, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    before = model.encoder_passes
    scene = model.encode(photo)
    answers = {
        "classification": scene.classify(NAMES),
        "box": scene.segment(boxes=(75, 15, 480, 392), names=NAMES),
        "point": scene.segment(points=[(300, 120)], multimask=True),
        "coarse": scene.semantic(NAMES),
        "refined": scene.semantic(NAMES, refine=True, background=0.1),
        "everything": scene.everything(NAMES, points_per_side=2),
    }
    assert model.encoder_passes == before + 1
    for name, answer in answers.items():
        json.dumps(answer.to_dict())
        assert save_picture(answer.draw(), tmp_path / f"{name}.png").stat().st_size > 1000
    assert answers["classification"].probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert answers["coarse"].labels.shape == photo.shape[:2]


def test_the_cup_is_found_by_box_and_by_point(scene: samclip.Scene) -> None:
    box = scene.segment(boxes=(170, 15, 420, 320))
    point = scene.segment(points=[(290, 60), (260, 290)])
    assert box.scores[0] > 0.8
    assert box.areas[0] > 0.4 * 250 * 305
    inside = box.masks[0][15:320, 170:420].sum() / box.areas[0]
    assert inside > 0.95
    assert point.areas[0] > 0


def test_feeding_a_mask_back_keeps_the_object(scene: samclip.Scene) -> None:
    first = scene.segment(boxes=(75, 15, 480, 392))
    assert first.low_res_logits is not None
    for again in (
        scene.segment(mask=first.low_res_logits),
        scene.segment(boxes=(75, 15, 480, 392), mask=first.low_res_logits),
    ):
        both, either = (again.masks & first.masks).sum(), (again.masks | first.masks).sum()
        assert both / either > 0.9


def test_prompts_together_equal_prompts_alone(scene: samclip.Scene) -> None:
    points = [[(290, 60)], [(260, 290), (100, 200)], [(20, 20)], [(390, 270), (380, 280), (30, 30)]]
    together = scene.segment(points=points)
    for row, one in enumerate(points):
        alone = scene.segment(points=one)
        assert together.scores[row] == pytest.approx(alone.scores[0], abs=1e-4)
        assert (together.masks[row] != alone.masks[0]).mean() < 1e-4


def test_an_untrained_head_warns_each_time(scene: samclip.Scene) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            assert scene.classify(NAMES).trained_head is False
    assert [w.category for w in caught] == [samclip.UntrainedHeadWarning] * 3


def test_threads_are_bit_equal_to_serial(model: samclip.Model, scene: samclip.Scene) -> None:
    boxes = [(10 * i, 5 * i, 10 * i + 100, 5 * i + 120) for i in range(12)]
    serial = [scene.segment(boxes=box) for box in boxes]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(lambda box: scene.segment(boxes=box), boxes))
    for one, other in zip(serial, parallel, strict=True):
        assert one.low_res_logits is not None
        assert other.low_res_logits is not None
        np.testing.assert_array_equal(one.low_res_logits, other.low_res_logits)
        np.testing.assert_array_equal(one.packed.bits, other.packed.bits)


def test_closing_during_inference(mobile_sam_bundle: Path, photo: NDArray[np.uint8]) -> None:
    model = samclip.load(mobile_sam_bundle, threads=1)
    scene = model.encode(photo)
    outcomes: list[str] = []

    def work() -> None:
        try:
            while True:
                scene.segment(points=[(300, 120)])
        except samclip.ClosedError:
            outcomes.append("closed")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    scene.segment(points=[(300, 120)])
    model.close()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == ["closed"] * 3


def test_wrong_requests_are_typed(mobile_sam_bundle: Path) -> None:
    with pytest.raises(samclip.BackendUnavailableError):
        samclip.load(mobile_sam_bundle, "onnxruntim")
    with pytest.raises(samclip.InputError, match="no encoder in bf16, only in fp32"):
        samclip.load(mobile_sam_bundle, "onnxruntime", precision="bf16")
    with pytest.raises(samclip.BundleNotFoundError):
        samclip.load("no-such-bundle")
