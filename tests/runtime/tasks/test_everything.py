from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import IOUS, RADII, FakeBackend, fake_model, flag
from recorded_progress import RecordedProgress

from samclip.errors import EngineRunError, PromptError
from samclip.progress import Silent
from samclip.runtime.features import Features
from samclip.runtime.model import Model
from samclip.runtime.results.masks import AutoMasks
from samclip.runtime.tasks.everything import ENOUGH, CropSearch, segment_everything
from samclip.runtime.tasks.grid import AutoMaskOptions

LOOSE = {"pred_iou_thresh": 0.75, "stability_score_thresh": 0.5}
KEYS = {
    "segmentation",
    "area",
    "bbox",
    "predicted_iou",
    "point_coords",
    "stability_score",
    "crop_box",
}


@pytest.fixture
def model() -> Model:
    return fake_model()


def backend_of(model: Model) -> FakeBackend:
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    return backend


def test_filters_by_predicted_iou_and_stability(model: Model) -> None:
    scene = model.encode(flag())
    strict = scene.everything(points_per_side=2, pred_iou_thresh=0.9, stability_score_thresh=0)
    assert strict.scores.tolist() == pytest.approx([0.95] * 4)
    stability = ((RADII[2] - 0.25) / (RADII[2] + 0.25)) ** 2  # logits move by 1, 4 a pixel
    np.testing.assert_allclose(strict.stability_scores, stability, atol=0.02)
    assert len(scene.everything(points_per_side=2, stability_score_thresh=0.99)) == 0
    none = scene.everything(points_per_side=2, pred_iou_thresh=0.999)
    assert len(none) == 0
    assert none.masks.shape == (0, 128, 200)
    assert none.records() == []


def test_records_have_sams_keys_and_conventions(model: Model) -> None:
    found = model.encode(flag()).everything(points_per_side=2, stability_score_thresh=0.5)
    records = found.records()
    assert [set(record) for record in records] == [KEYS] * len(found)
    for row, record in enumerate(records):
        rows, columns = np.nonzero(record["segmentation"])
        x0, y0 = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) - x0, int(rows.max()) - y0
        assert record["bbox"] == [x0, y0, width, height]
        assert record["area"] == len(rows)
        assert record["crop_box"] == [0, 0, 200, 128]
        assert found.boxes[row].tolist() == [x0, y0, x0 + width + 1, y0 + height + 1]
    assert {tuple(record["point_coords"][0]) for record in records} == {
        (50.0, 32.0),
        (150.0, 32.0),
        (50.0, 96.0),
        (150.0, 96.0),
    }
    compressed = found.records(rle=True)
    assert isinstance(compressed[0]["segmentation"]["counts"], str)


def test_duplicates_go_the_best_stays(model: Model) -> None:
    found = model.encode(flag()).everything(points_per_side=12, **LOOSE)
    every = model.encode(flag()).everything(points_per_side=12, box_nms_thresh=1.0, **LOOSE)
    assert 0 < len(found) < len(every)
    assert (np.diff(found.scores) <= 0).all()


def test_the_encoder_does_not_run_again_without_crops(model: Model) -> None:
    scene = model.encode(flag())
    scene.everything(points_per_side=2)
    assert model.encoder_passes == 1


def test_each_crop_is_one_counted_pass(model: Model) -> None:
    scene = model.encode(flag())
    found = scene.everything(points_per_side=3, crop_n_layers=1, crop_nms_thresh=1.0, **LOOSE)
    assert model.encoder_passes == 5
    assert {tuple(box) for box in found.crop_boxes.tolist()} >= {(0, 0, 200, 128)}
    assert len({tuple(box) for box in found.crop_boxes.tolist()}) > 1
    assert found.prompt_index.max() < 5 * 9


def test_masks_of_crops_lie_in_their_crop_and_away_from_its_edge(model: Model) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    found = model.encode(image).everything(
        points_per_side=4, crop_n_layers=1, crop_nms_thresh=1.0, **LOOSE
    )
    inner = 0
    for mask, crop in zip(found.masks, found.crop_boxes, strict=True):
        x0, y0, x1, y1 = crop
        outside = mask.copy()
        outside[y0:y1, x0:x1] = False
        assert not outside.any()
        rows, columns = np.nonzero(mask)
        inner += (x1 - x0) < 400
        assert x0 == 0 or columns.min() - x0 > 20
        assert y0 == 0 or rows.min() - y0 > 20
    assert inner > 0


def test_progress_counts_the_points_of_all_crops(model: Model) -> None:
    class Counted(Silent):
        def __init__(self) -> None:
            self.stages: list[tuple[str, int | None]] = []
            self.points = 0

        def stage(self, name: str, total: int | None = None, done: int = 0) -> Any:
            self.stages.append((name, total))
            return super().stage(name, total, done)

        def advance(self, text: str = "") -> None:
            self.points += 1

    progress = Counted()
    model.encode(flag()).everything(
        points_per_side=4, crop_n_layers=1, points_per_batch=3, progress=progress
    )
    assert progress.stages == [("points", 5 * 16)]
    assert progress.points == 5 * 16


def tried_by(model: Model, image: Any, **options: Any) -> tuple[AutoMasks, list[str]]:
    """Search adaptively; return what is found, and the text of each step of the progress."""
    progress = RecordedProgress()
    found = model.encode(image).everything(adaptive=True, progress=progress, **options)
    (begin, *steps, _) = progress.events
    assert begin == ("begin", "points", len(steps), 0)
    return found, [step[1] for step in steps]


def test_an_adaptive_search_of_uncovered_points_is_the_whole_grid(model: Model) -> None:
    """Three points of a first pass must cover a point: in these there are none, and one."""
    for options in ({"points_per_side": 1}, {"points_per_side": 3, "crop_n_layers": 1}):
        found, steps = tried_by(model, flag(), **options, **LOOSE)
        assert not any(steps)
        whole = model.encode(flag()).everything(**options, **LOOSE)
        for field in ("scores", "boxes", "points", "prompt_index", "crop_boxes", "masks"):
            np.testing.assert_array_equal(getattr(found, field), getattr(whole, field))


def test_an_adaptive_search_leaves_out_what_three_first_points_cover(model: Model) -> None:
    side, size = 16, (256, 256)
    image = np.zeros((*size, 3), np.uint8)
    found, steps = tried_by(model, image, points_per_side=side, points_per_batch=5, **LOOSE)
    places = (np.arange(side) + 0.5) * 256 / side
    x, y = (each.ravel() for each in np.meshgrid(places, places))
    first = np.zeros((side, side), bool)
    first[1::2, 1::2] = True
    first = first.ravel()
    radius = max(radius for radius, iou in zip(RADII[1:], IOUS[1:], strict=True) if iou > 0.75)
    distance = np.hypot(x[first, None] - x, y[first, None] - y)  # 64x256
    covers = np.count_nonzero(distance < radius, axis=0)
    sure = (np.abs(distance - radius) > 2).all(axis=0) & ~first  # logits lie 4 pixels apart
    tried = np.count_nonzero(first) + np.count_nonzero(~first & (covers < ENOUGH))
    unsure = np.count_nonzero(~sure & ~first)
    assert 0 < steps.count("covered") < side * side * 3 // 4
    assert abs(steps.count("") - tried) <= unsure
    batches = backend_of(model).engines["mask_decoder"].batches
    assert sum(batches) == steps.count("")
    left_out = np.flatnonzero(sure & (covers >= ENOUGH))
    assert len(left_out) and not set(found.prompt_index) & set(left_out)


@pytest.mark.parametrize("crops", [0, 1])
def test_an_adaptive_search_depends_on_no_batch(model: Model, crops: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 220, 3), np.uint8)
    options = {"points_per_side": 9, "crop_n_layers": crops, **LOOSE}
    one, steps = tried_by(model, image, **options, points_per_batch=1)
    other, others = tried_by(model, image, **options, points_per_batch=16)
    assert sorted(steps) == sorted(others) and "covered" in steps
    for field in ("scores", "points", "prompt_index", "masks"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_small_islands_go(model: Model) -> None:
    image = np.zeros((128, 200, 3), np.uint8)
    found = model.encode(image).everything(
        points_per_side=2, min_mask_region_area=400, pred_iou_thresh=0.6, stability_score_thresh=0
    )
    assert (found.areas > 0).all()  # discs are one island each: they stay, whatever their size


def test_batches_are_as_large_as_asked(model: Model) -> None:
    scene = model.encode(flag())
    scene.everything(points_per_side=5, points_per_batch=7)
    assert backend_of(model).engines["mask_decoder"].batches == [7, 7, 7, 4]


def test_names_for_everything(model: Model) -> None:
    found = model.encode(flag()).everything(
        names=["red", "green", "blue"], points_per_side=3, stability_score_thresh=0.5
    )
    assert isinstance(found, AutoMasks)
    assert found.names is not None
    where = dict(zip(found.points[:, 0].astype(int).tolist(), found.names, strict=True))
    assert where == {33: "red", 100: "green", 166: "blue"}


@pytest.mark.parametrize(
    "option",
    [
        {"points_per_side": 0},
        {"points_per_side": 2.5},
        {"points_per_side": "32"},
        {"points_per_batch": -1},
        {"pred_iou_thresh": float("nan")},
        {"stability_score_offset": -1.0},
        {"crop_n_layers": 9},
        {"crop_overlap_ratio": 1.0},
        {"crop_n_points_downscale_factor": 0},
        {"min_mask_region_area": -3},
        {"box_nms_thresh": None},
        {"point_grids": [[(0.5, 0.5)]]},
        {"points_per_side": None},
        {"points_per_side": None, "point_grids": []},
        {"points_per_side": None, "crop_n_layers": 1, "point_grids": [[(0.5, 0.5)]]},
        {"points_per_side": None, "point_grids": [(0.5, 0.5)]},
        {"points_per_side": None, "point_grids": [np.zeros((0, 2))]},
        {"points_per_side": None, "point_grids": [[(0.5, 1.5)]]},
        {"points_per_side": None, "point_grids": [[(0.5, float("nan"))]]},
        {"points_per_side": None, "point_grids": [["ab"]]},
        {"points_per_side": None, "point_grids": 3},
        {"points_per_side": None, "point_grids": [[(0.5, 0.5)]], "adaptive": True},
    ],
)
def test_options_out_of_range(option: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=list(option)[-1]):
        AutoMaskOptions(**option)


def test_points_that_are_given(model: Model) -> None:
    grids = [np.array([(0.25, 0.5), (0.75, 0.5)]), [(0.5, 0.5)]]
    scene = model.encode(flag())
    loose = {"points_per_side": None, "point_grids": grids, "pred_iou_thresh": 0.9}
    found = scene.everything(stability_score_thresh=0, **loose)
    assert found.points.tolist() == [[50, 64], [150, 64]]
    crops = scene.everything(stability_score_thresh=0, crop_n_layers=1, **loose)
    assert {tuple(box) for box in crops.crop_boxes.tolist()} > {(0, 0, 200, 128)}
    assert crops.prompt_index.max() < 2 + 4  # a point in each crop


def test_defaults_are_sams() -> None:
    options = AutoMaskOptions()
    assert (options.points_per_side, options.points_per_batch) == (32, 64)
    assert (options.pred_iou_thresh, options.stability_score_thresh) == (0.88, 0.95)
    assert options.crop_overlap_ratio == 512 / 1500
    assert len(options.grid(0)) == 32 * 32
    halved = AutoMaskOptions(points_per_side=4, crop_n_points_downscale_factor=2)
    assert [len(halved.grid(layer)) for layer in range(4)] == [16, 4, 1, 1]
    assert max(IOUS) > options.pred_iou_thresh


def test_crops_are_let_go_of_when_the_search_fails(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Features] = []
    image, run = flag(), CropSearch.run

    def encode(crop: np.ndarray) -> Features:
        made.append(model.encode(crop).features)
        return made[-1]

    def fail_in_crops(search: CropSearch, first_index: int, stage: Any) -> Any:
        if made:
            raise EngineRunError("out of memory")
        return run(search, first_index, stage)

    monkeypatch.setattr(CropSearch, "run", fail_in_crops)
    whole = model.encode(image).features
    options = AutoMaskOptions(points_per_side=2, crop_n_layers=1)
    with pytest.raises(EngineRunError):
        segment_everything(whole, image, options, encode)
    assert [features.closed for features in made] == [True]
    assert not whole.closed
