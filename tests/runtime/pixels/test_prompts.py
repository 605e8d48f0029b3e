from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samclip.errors import InputWarning, PromptError
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.prompts import (
    MAX_POINTS,
    MAX_PROMPTS,
    MAX_PROMPTS_PER_CALL,
    MAX_TOKENS,
    Prompt,
    batch_prompts,
    parse_prompts,
)

SIZE = (100, 200)  # h, w
SIDE = 8


def parse(**kinds: Any) -> tuple[Prompt, ...]:
    return parse_prompts(SIZE, SIDE, **kinds)


@pytest.mark.parametrize(
    ("points", "counts"),
    [
        ([(1, 2)], [1]),
        ([(1, 2), (3, 4), (5, 6)], [3]),
        (np.ones((3, 1, 2)), [1, 1, 1]),
        ([[(1, 2), (3, 4)], [(5, 6), (7, 8)]], [2, 2]),
        ([[(1, 2)], [(3, 4), (5, 6)]], [1, 2]),
        ([np.ones((4, 2)), np.ones((2, 2))], [4, 2]),
        (((1, 2), (3, 4)), [2]),
        (np.ones((2, 2), np.int64)[::-1], [2]),
    ],
)
def test_forms_of_points(points: Any, counts: list[int]) -> None:
    prompts = parse(points=points)
    assert [len(prompt.points) for prompt in prompts] == counts
    assert [prompt.labels.tolist() for prompt in prompts] == [[1.0] * n for n in counts]
    assert all(prompt.box is None and prompt.mask is None for prompt in prompts)


def test_labels_follow_the_shape_of_the_points() -> None:
    (one,) = parse(points=[(1, 2), (3, 4)], labels=[1, 0])
    assert one.labels.tolist() == [1, 0]
    two = parse(points=[[(1, 2)], [(3, 4), (5, 6)]], labels=[[0], [1, 0]])
    assert [prompt.labels.tolist() for prompt in two] == [[0], [1, 0]]
    (flags,) = parse(points=[(1, 2)], labels=np.array([True]))
    assert flags.labels.tolist() == [1]


def test_boxes_pair_with_points_one_to_one() -> None:
    boxes = [(0, 0, 10, 10), (5, 5, 50, 50)]
    prompts = parse(points=[[(1, 2)], [(6, 7), (8, 9)]], boxes=boxes)
    assert [prompt.box.tolist() for prompt in prompts if prompt.box is not None] == [
        list(box) for box in boxes
    ]
    assert [len(prompt.points) for prompt in parse(boxes=boxes)] == [0, 0]
    assert len(parse(boxes=boxes[0])) == 1
    some = parse(points=[[(1, 2)], []], boxes=boxes)
    assert [len(prompt.points) for prompt in some] == [1, 0]


def test_boxes_partly_outside_are_clamped() -> None:
    (prompt,) = parse(boxes=(-5, 10, 500, 90.5))
    assert prompt.box is not None
    assert prompt.box.tolist() == [0, 10, 200, 90.5]


def test_the_image_border_belongs_to_the_image() -> None:
    (prompt,) = parse(points=[(0, 0), (200, 100)])
    assert len(prompt.points) == 2


@pytest.mark.parametrize(
    "kinds",
    [
        {"boxes": np.zeros((0, 4))},
        {"boxes": []},
        {"points": np.zeros((0, 1, 2))},
        {"points": np.zeros((0, 3, 2)), "labels": np.zeros((0, 3))},
        {"points": np.zeros((0, 1, 2)), "boxes": np.zeros((0, 4))},
        {"mask": np.zeros((0, SIDE, SIDE))},
    ],
)
def test_a_detector_that_found_nothing_gives_no_prompts(kinds: dict[str, Any]) -> None:
    assert parse(**kinds) == ()


def test_masks() -> None:
    (prompt,) = parse(mask=np.full((SIDE, SIDE), 3.0))
    assert prompt.mask is not None
    assert prompt.mask.dtype == np.float32
    assert len(parse(mask=np.zeros((3, SIDE, SIDE)))) == 3
    (huge,) = parse(mask=np.full((SIDE, SIDE), 1e300))
    assert huge.mask is not None
    assert np.isfinite(huge.mask).all()


def test_ambiguity_and_centre() -> None:
    (lone,) = parse(points=[(10, 20)])
    assert lone.is_ambiguous
    (pair,) = parse(points=[(10, 20), (30, 40), (90, 90)], labels=[1, 1, 0])
    assert not pair.is_ambiguous
    assert pair.centre is not None
    assert pair.centre.tolist() == [20, 30]
    (box,) = parse(points=[(10, 20)], boxes=(0, 0, 10, 30))
    assert not box.is_ambiguous
    assert box.centre is not None
    assert box.centre.tolist() == [5, 15]
    (mask,) = parse(mask=np.zeros((SIDE, SIDE)))
    assert mask.centre is None
    (negative,) = parse(points=[(10, 20)], labels=[0])
    assert negative.centre is not None
    assert negative.centre.tolist() == [10, 20]


@dataclass(frozen=True)
class Unwilling:
    """As a tensor on a GPU (TypeError), or one that needs gradients (RuntimeError)."""

    kind: type[Exception]

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise self.kind("not on the host")


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "no prompt"),
    ({"points": []}, "no point|must be"),
    ({"points": np.zeros((0, 2))}, "no point"),
    ({"boxes": np.zeros((0, 3))}, "XYXY"),
    ({"points": [(1, 2)], "boxes": []}, "one to one"),
    ({"points": (420, 310)}, r"points=\[\(x, y\)\]"),
    ({"points": 5}, "Nx2"),
    ({"points": "here"}, "real numbers"),
    ({"points": [(1, None)]}, "real numbers"),
    ({"points": [(1j, 2)]}, "real numbers"),
    ({"points": [(1, 2, 3)]}, "Nx2"),
    ({"points": np.ones((1, 2, 2, 2))}, "Nx2"),
    ({"points": [[(1, 2)], [(3, 4, 5), (6, 7, 8)]]}, "Nx2"),
    ({"points": [[(1, 2)], ["a", "b"]]}, "real numbers"),
    ({"points": [(float("nan"), 2)]}, "NaN"),
    ({"points": [(float("inf"), 2)]}, "NaN or infinity"),
    ({"points": [(201, 5)]}, "outside"),
    ({"points": [(5, -1)]}, "outside"),
    ({"points": [(5, 1e300)]}, "outside"),
    ({"points": np.ones((MAX_POINTS + 1, 2))}, "at most"),
    ({"points": [(1, 2)], "labels": [1, 0]}, "labels have"),
    ({"points": [(1, 2)], "labels": 1}, "labels have"),
    ({"points": [(1, 2)], "labels": [2]}, "1 .foreground. or 0"),
    ({"points": [(1, 2)], "labels": [0.5]}, "1 .foreground. or 0"),
    ({"points": [(1, 2)], "labels": [float("nan")]}, "NaN"),
    ({"labels": [1]}, "without points"),
    ({"points": Unwilling(TypeError)}, "numpy says: not on the host"),
    ({"points": Unwilling(RuntimeError)}, "numpy says: not on the host"),
    ({"boxes": Unwilling(TypeError)}, "numpy says: not on the host"),
    ({"points": np.full((1, 2), np.longdouble(1e308) * 10)}, "infinity"),
    ({"boxes": [1, 2, 3]}, "XYXY"),
    ({"boxes": np.ones((1, 1, 4))}, "XYXY"),
    ({"boxes": [[1, 2, 3, 4], [5, 6]]}, "unequal"),
    ({"boxes": [10, 10, 5, 20]}, "inverted.*of \\(x, y, width, height\\)"),
    ({"boxes": [[1, 2, 9, 9, 0.9]]}, "Leave out scores and classes"),
    ({"boxes": [10, 10, 10, 20]}, "inverted or empty"),
    ({"boxes": [10, 10, float("nan"), 20]}, "NaN"),
    ({"boxes": [300, 10, 400, 20]}, "outside"),
    ({"boxes": [-30, -10, -5, -2]}, "outside"),
    ({"boxes": [[0, 0, 9, 9], [200, 10, 400, 20]]}, "outside"),
    ({"points": [(1, 2)], "boxes": np.ones((2, 4)) * (0, 0, 9, 9)}, "one to one"),
    ({"mask": np.zeros((4, 4))}, "8x8"),
    ({"mask": np.zeros((1, 1, SIDE, SIDE))}, "8x8"),
    ({"mask": np.zeros((SIDE, SIDE), bool)}, "bool"),
    ({"mask": np.full((SIDE, SIDE), np.nan)}, "NaN"),
    ({"mask": np.zeros((2, SIDE, SIDE)), "boxes": [0, 0, 9, 9]}, "one to one"),
]


@pytest.mark.parametrize(("kinds", "message"), BAD)
def test_what_is_refused(kinds: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        parse(**kinds)


LETTERBOX = Letterbox.fit((100, 200), 64)


def prompt(points: int, box: bool = False, mask: bool = False) -> Prompt:
    coords = np.arange(2.0 * points).reshape(points, 2)
    return Prompt(
        coords,
        np.ones(points),
        np.array([10.0, 20, 30, 40]) if box else None,
        np.full((16, 16), 5, np.float32) if mask else None,
    )


def test_a_prompt_without_a_box_ends_in_a_padding_point() -> None:
    (batch,) = batch_prompts([prompt(2)], LETTERBOX, 16)
    np.testing.assert_allclose(batch.point_coords, [[[0, 0.32], [0.64, 0.96], [0, 0]]], rtol=1e-6)
    assert batch.point_labels.tolist() == [[1, 1, -1]]
    assert batch.has_mask_input.tolist() == [0]


def test_a_box_ends_in_its_corners() -> None:
    (batch,) = batch_prompts([prompt(1, box=True, mask=True)], LETTERBOX, 16)
    np.testing.assert_allclose(
        batch.point_coords, [[[0, 0.32], [3.2, 6.4], [9.6, 12.8]]], rtol=1e-6
    )
    assert batch.point_labels.tolist() == [[1, 2, 3]]
    assert batch.has_mask_input.tolist() == [1]
    assert (batch.mask_input == 5).all()


def test_a_mask_alone_has_no_token() -> None:
    (batch,) = batch_prompts([prompt(0, mask=True)], LETTERBOX, 16)
    assert batch.point_coords.shape == (1, 0, 2)
    assert batch.point_labels.shape == (1, 0)


def test_all_inputs_are_float32() -> None:
    (batch,) = batch_prompts([prompt(1)], LETTERBOX, 16)
    assert {array.dtype for array in batch.feeds().values()} == {np.dtype(np.float32)}
    assert batch.mask_input.shape == (1, 1, 16, 16)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 8),
)
def test_every_prompt_comes_once_with_its_own_tokens(rows: list, limit: int) -> None:
    prompts = [prompt(*row) for row in rows]
    seen = []
    for batch in batch_prompts(prompts, LETTERBOX, 16, limit):
        assert 1 <= len(batch.rows) <= limit
        for place, row in enumerate(batch.rows):
            count = len(prompts[row].points)
            tail = [2, 3] if prompts[row].box is not None else [-1]
            assert batch.point_labels[place].tolist() == [1] * count + tail
            assert batch.has_mask_input[place] == (prompts[row].mask is not None)
        seen.extend(batch.rows.tolist())
    assert sorted(seen) == list(range(len(prompts)))


def test_batches_are_bounded_in_prompts_and_tokens() -> None:
    sizes = [len(b.rows) for b in batch_prompts([prompt(1)] * 100, LETTERBOX, 16)]
    assert max(sizes) == MAX_PROMPTS
    long = [b.point_labels.size for b in batch_prompts([prompt(200)] * 5, LETTERBOX, 16)]
    assert max(long) <= MAX_TOKENS
    assert [len(b.rows) for b in batch_prompts([prompt(4000)] * 2, LETTERBOX, 16)] == [1, 1]


LARGE = (400, 600)  # h, w
SHARES: list[dict[str, Any]] = [
    {"boxes": (0.125, 0.25, 0.5, 0.75)},
    {"boxes": (0, 0, 1, 1)},
    {"boxes": (-0.003, 0.2, 1.02, 0.9)},
    {"boxes": [(10, 20, 90, 80), (0.1, 0.1, 0.2, 0.2)]},
    {"points": [(0.5, 0.5)]},
    {"points": [(300, 200), (0.1, 0.9)], "labels": [1, 0]},
    {"points": [[(300, 200)], [(0.25, 0)]]},
    {"points": [(0.5, 1)], "boxes": (10, 20, 90, 80)},
]
PIXELS: list[dict[str, Any]] = [
    {"boxes": (0, 0, 1, 30)},
    {"boxes": (0.5, 0.5, 5.5, 5.5)},
    {"boxes": (300.1, 200.1, 300.9, 200.9)},
    {"points": [(0, 0), (1, 1)]},
    {"points": [(0.5, 30)]},
    {"points": [(600, 400)]},
]


@pytest.mark.parametrize("kinds", SHARES, ids=str)
def test_coordinates_that_look_like_shares_are_used_with_a_warning(kinds: dict[str, Any]) -> None:
    with pytest.warns(InputWarning, match=r"multiply x by 600 and y by 400") as seen:
        prompts = parse_prompts(LARGE, SIDE, **kinds)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert prompts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_prompts((8, 12), SIDE, **{k: np.minimum(v, 8) for k, v in SHARES[0].items()})


@pytest.mark.parametrize("kinds", PIXELS, ids=str)
def test_other_coordinates_near_the_corner_are_pixels(kinds: dict[str, Any]) -> None:
    assert parse_prompts(LARGE, SIDE, **kinds)  # a warning would be an error here


def test_as_many_prompts_as_are_accepted() -> None:
    most = MAX_PROMPTS_PER_CALL
    assert len(parse(boxes=np.tile([0, 0, 9, 9], (most, 1)))) == most
    too_many: list[dict[str, Any]] = [
        {"boxes": np.tile([0, 0, 9, 9], (most + 1, 1))},
        {"points": np.ones((most + 1, 1, 2))},
        {"points": [[(1, 2)], *[[(3, 4), (5, 6)]] * most]},
        {"mask": np.zeros((most + 1, SIDE, SIDE), np.float32)},
    ]
    for kinds in too_many:
        with pytest.raises(PromptError, match=f"{most:,} are answered at once"):
            parse(**kinds)


def test_masks_are_not_copied_to_a_wider_type() -> None:
    mask = np.ones((3, SIDE, SIDE), np.float32)
    assert all(np.shares_memory(prompt.mask, mask) for prompt in parse(mask=mask))
    (huge,) = parse(mask=np.full((SIDE, SIDE), 1e300))
    assert huge.mask is not None
    assert huge.mask.max() == np.finfo(np.float32).max
