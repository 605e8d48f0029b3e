from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from PIL import Image

import samclip
from samclip.errors import ImageError, InputError, PromptError, SamclipError, brief
from samclip.runtime.pixels.arrays import as_array, as_flag, as_number, as_whole
from samclip.runtime.scene import Scene


class Raises:
    """An array of the caller's that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *_: object, **__: object) -> Any:
        raise self.error

    def __repr__(self) -> str:
        raise ValueError("no text")


class TimeLimitError(RuntimeError):
    pass


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def test_arrays_are_not_copied() -> None:
    given = np.ones(3)
    assert as_array(given, "x", "numbers") is given
    assert as_array([1, 2], "x", "numbers", dtype=np.float64).dtype == np.float64
    unmasked = np.ma.masked_array([1.0, 2.0], [False, False])
    assert as_array(unmasked, "x", "numbers").tolist() == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3]],
        nested(3000),
        Raises(TypeError("not on the host")),
        Raises(RuntimeError("needs a gradient")),
        np.ma.masked_array([1.0, 2.0], [False, True]),
        [np.ma.masked_array([1.0, 2.0], [False, True])],
    ],
    ids=range(6),
)
def test_what_cannot_be_an_array(value: Any) -> None:
    with pytest.raises(ImageError, match=r"^x (must be numbers|is a masked array)") as caught:
        as_array(value, "x", "numbers", error=ImageError)
    assert len(str(caught.value)) < 300


def test_what_a_caller_raises_passes_through() -> None:
    for error in (
        TimeLimitError("over"),
        MemoryError(),
        RecursionError(),
        TimeoutError(),
        KeyError(1),
    ):
        with pytest.raises(type(error)) as caught:
            as_array(Raises(error), "x", "numbers")
        assert caught.value is error


def test_masked_numbers_are_never_used() -> None:
    scene = fake_model().encode(flag())
    hidden = np.ma.masked_array([[5.0, 5, 50, 50], [9, 9, 90, 90]], [[False] * 4, [True] * 4])
    calls: list[dict[str, Any]] = [
        {"boxes": hidden},
        {"points": hidden[:, :2]},
        {"points": [hidden[:, :2]]},
        {"points": [(5, 5)], "labels": np.ma.masked_array([1], [True])},
    ]
    for prompts in calls:
        with pytest.raises(PromptError, match="masked array"):
            scene.segment(**prompts)
    masks = np.ma.masked_array(np.ones((128, 200), bool), np.ones((128, 200), bool))
    with pytest.raises(PromptError, match="masked array"):
        scene.name(masks, ["red"])


@pytest.mark.parametrize("value", ["no", "False", 2, -1, 1.0, None, [], np.zeros(3), Raises])
def test_switches_are_not_guessed(value: Any) -> None:
    with pytest.raises(InputError, match="refine must be True or False"):
        as_flag(value, "refine")
    for good in (True, np.True_, 1, np.int64(1)):
        assert as_flag(good, "refine") is True


def test_numbers() -> None:
    assert (as_whole(np.float32(2), "n", 1), as_whole(10**400 % 7, "n", 0)) == (2, 10**400 % 7)
    assert type(as_whole(np.int8(3), "n", 1)) is int
    assert as_number(np.float16(0.5), "n", 0) == 0.5
    for value in (None, "2", True, 0, float("nan"), float("inf"), 10**400, nested(3000), 1j):
        for check in (as_whole, as_number):
            with pytest.raises(InputError, match="n must be"):
                check(value, "n", 1)
    with pytest.raises(InputError, match="whole"):
        as_whole(1.5, "n", 1)


def test_values_of_any_kind_are_shown_briefly() -> None:
    assert brief(5) == "5"
    assert brief("x" * 10**6).startswith("'xxx")
    assert brief(np.zeros((2, 3))) == "ndarray of shape (2, 3)"
    cycle: list[Any] = []
    cycle.append(cycle)
    odd = (
        nested(3000),
        cycle,
        10**5000,
        Raises(ValueError()),
        "a\nb",
        [1] * 10**6,
        {1: {2: {3: 4}}},
    )
    for value in odd:
        assert 0 < len(brief(value)) <= 60
        assert "\n" not in brief(value)


ODD: tuple[Any, ...] = (
    *(None, -1, 1.5, float("nan"), True, "x", b"x", [], {}, {1}, object(), int, nested(2000)),
    *([[1, 2], [3]], np.zeros((3, 3)), np.array([None]), Image.new("RGB", (4, 4)), Path("x")),
    *(np.float32(2), 10**400, 1j, ..., slice(1), [None], range(4), np.array(3), "a\0b", iter([])),
)


def test_odd_arguments_are_typed_errors_or_answers(tmp_path: Path) -> None:
    """Every public method of a scene and its answers, with values of every kind."""
    scene: Scene = fake_model().encode(flag())
    masks = scene.segment(boxes=[(5, 5, 50, 120)], names=["red", "green"])
    found, labels = scene.classify(["red", "green"]), scene.semantic(["red", "blue"])
    everything = {"points_per_side": 1, "stability_score_thresh": 0.5}
    predictor = samclip.SamPredictor(scene_model := fake_model())
    predictor.set_image(flag())
    box = [(5, 5, 9, 9)]
    calls: dict[str, Any] = {
        "top": found.top,
        "bars": found.draw,
        "bars k": lambda v: found.draw(k=v),
        "mask": labels.mask,
        "map": labels.draw,
        "labels file": lambda v: labels.save_labels(v if isinstance(v, int) else tmp_path),
        "item": masks.__getitem__,
        "masks": masks.draw,
        "coco": masks.to_coco,
        "coco id": lambda v: masks.to_coco(first_id=v),
        "coco categories": lambda v: masks.to_coco(categories=v),
        "stem": lambda v: masks.save_masks(tmp_path, v),
        "points": lambda v: scene.segment(points=v),
        "point labels": lambda v: scene.segment(points=[(5, 5)], labels=v),
        "boxes": lambda v: scene.segment(boxes=v),
        "logits": lambda v: scene.segment(mask=v),
        "multimask": lambda v: scene.segment(boxes=box, multimask=v),
        "names": lambda v: scene.segment(boxes=box, names=v),
        "given": lambda v: scene.name(v, ["red"]),
        "background": lambda v: scene.semantic(["red", "green"], background=v),
        "refine": lambda v: scene.semantic(["red"], refine=v),
        "points per side": lambda v: scene.everything(points_per_side=v),
        "threshold": lambda v: scene.everything(**everything, pred_iou_thresh=v),
        "area": lambda v: scene.everything(**everything, min_mask_region_area=v),
        "whole file": lambda v: samclip.write_coco(tmp_path / "x.json", v),
        "set image": samclip.SamPredictor(scene_model).set_image,
        "format": lambda v: predictor.set_image(flag(), v),
        "coords": lambda v: predictor.predict(v, [1]),
        "box": lambda v: predictor.predict(box=v),
        "batch": lambda v: predictor.predict_torch(None, None, v),
        "batch points": lambda v: predictor.predict_torch(v, [[1]]),
        "batch labels": lambda v: predictor.predict_torch([[[5, 5]]], v),
        "mapped": lambda v: predictor.transform.apply_boxes(v, (128, 200)),
        "size": lambda v: predictor.transform.apply_coords([[5, 5]], v),
    }
    refused = 0
    for name, call in calls.items():
        for value in ODD:
            try:
                call(value)
            except SamclipError as error:
                refused += 1
                assert len(str(error)) < 400, name
            except Exception as error:
                raise AssertionError(f"{name} of {brief(value)}: {error!r}") from error
    assert refused > 500
