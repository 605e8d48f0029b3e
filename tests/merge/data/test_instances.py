"""Instances by the teachers, and the prompts that are made of instances."""

from __future__ import annotations

import pytest
import torch
from tiny_ovsam_run import colour_labels

from samclip.merge.data.instances import Instances, named_regions, no_instances, prompt_instances
from samclip.merge.teachers.region_teacher import RegionTargets


def blocks() -> Instances:
    """Three instances in a square of 64 px."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 8:, :8] = masks[2, 2:4, 10:15] = True
    boxes = torch.tensor([[0, 0, 16, 16], [0, 32, 32, 64], [40, 8, 60, 16]]).float()
    return Instances(masks, boxes, torch.tensor([0, 2, -1]))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_prompts_take_turns(count: int) -> None:
    prompted = prompt_instances(blocks(), count, 0.5, torch.Generator().manual_seed(0))
    assert prompted is not None
    assert len(prompted.prompts) == len(prompted.chosen) == count
    times = torch.bincount(prompted.chosen, minlength=3)
    assert int(times.max() - times.min()) <= 1
    half = count // 2 if count != 3 else 2  # half of 3 is rounded to the even 2
    corners = prompted.prompts.coords[:half].reshape(half, 4)
    assert torch.equal(corners, prompted.boxes[:half])
    for chosen, prompt in zip(prompted.chosen[half:], prompted.prompts.coords[half:], strict=True):
        x, y = (int(c) // 4 for c in prompt[0])
        assert prompted.instances.masks[chosen, y, x]
    assert torch.equal(prompted.labels, blocks().labels[prompted.chosen])


def test_a_picture_without_instances_has_no_prompts() -> None:
    assert prompt_instances(no_instances(64), 4, 0.5, torch.Generator()) is None


def test_regions_take_the_nearest_name() -> None:
    labels = colour_labels()
    regions = RegionTargets(blocks().masks, labels.text[[3, 2, 0]], torch.ones(3))
    named = named_regions(regions, 64, labels)
    assert named.labels.tolist() == [2, 1, 0]
    assert torch.equal(named.boxes, blocks().boxes)
    nothing = RegionTargets(blocks().masks[:0], labels.text[:0], torch.ones(0))
    assert len(named_regions(nothing, 64, labels)) == 0
