"""Combinations of the prompt options."""

from __future__ import annotations

import pytest

from samclip.cli.arguments import PromptOptions, gather_prompts
from samclip.errors import PromptError

P, Q = (420.0, 310.0), (80.0, 90.0)
BOX, OTHER = (10.0, 20.0, 200.0, 240.0), (300.0, 80.0, 420.0, 200.0)


def test_points_describe_one_object_together() -> None:
    assert gather_prompts([P, Q], None, None, separate=False) == PromptOptions([P, Q], [1, 1], None)


def test_labels_follow_the_points() -> None:
    assert gather_prompts([P, Q], [1, 0], None, separate=False).labels == [1, 0]


def test_separate_points_are_an_object_each() -> None:
    prompts = gather_prompts([P, Q], None, None, separate=True)
    assert prompts == PromptOptions([[P], [Q]], [[1], [1]], None)


@pytest.mark.parametrize("separate", [False, True])
def test_each_box_is_an_object(separate: bool) -> None:
    assert gather_prompts(None, None, [BOX, OTHER], separate) == PromptOptions(boxes=[BOX, OTHER])


def test_points_refine_a_single_box() -> None:
    assert gather_prompts([P], [0], [BOX], separate=False) == PromptOptions([P], [0], [BOX])


@pytest.mark.parametrize(
    ("points", "labels", "boxes", "separate", "message"),
    [
        (None, None, None, False, "nothing to segment: add --point"),
        ([], [], [], False, "nothing to segment"),
        ([P], [1, 0], None, False, "2 --label for 1 --point"),
        ([P, Q], [1, 2], None, False, r"must be 1 .* or 0 .*got \[1, 2\]"),
        (None, [1], [BOX], False, "1 --label for 0 --point"),
        ([P], None, [BOX, OTHER], False, "in two commands"),
        ([P], None, [BOX], True, "in two commands"),
        ([P, Q], [1, 0], None, True, "by what it is not"),
    ],
)
def test_other_combinations_are_refused(
    points: list[tuple[float, float]] | None,
    labels: list[int] | None,
    boxes: list[tuple[float, float, float, float]] | None,
    separate: bool,
    message: str,
) -> None:
    with pytest.raises(PromptError, match=message):
        gather_prompts(points, labels, boxes, separate)
