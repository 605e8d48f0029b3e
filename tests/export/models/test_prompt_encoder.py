from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_segment_anything import randomise, reference_prompt_encoder, relative_error
from torch import Tensor

from samclip.export.models.prompt_encoder import PromptEncoder

NO_MASK = (torch.zeros(2, 1, 256, 256), torch.zeros(2))


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    module = PromptEncoder(1024)
    randomise(module)
    return module


@pytest.fixture(scope="module")
def original(encoder: PromptEncoder, mobile_sam_reference: Path) -> Any:
    return reference_prompt_encoder(mobile_sam_reference, 1024, encoder.state_dict())


def pad(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Append the point (0, 0) with label -1, as a caller without a box does."""
    extra = len(coords), 1
    return (
        torch.cat([coords, torch.zeros(*extra, 2)], dim=1),
        torch.cat([labels, -torch.ones(*extra)], dim=1),
    )


@torch.no_grad()
def test_points(encoder: PromptEncoder, original: Any) -> None:
    coords = torch.rand(2, 3, 2) * 1024
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    sparse, dense = encoder(*pad(coords, labels), *NO_MASK)
    expected = original((coords, labels), None, None)
    assert relative_error(sparse, expected[0]) < 1e-5
    assert torch.equal(dense.expand(2, -1, -1), expected[1].flatten(2).mT)


@torch.no_grad()
def test_boxes(encoder: PromptEncoder, original: Any) -> None:
    boxes = torch.rand(2, 2, 2) * 1024
    corners = torch.tensor([[2.0, 3.0]]).expand(2, -1)
    sparse, _ = encoder(boxes, corners, *NO_MASK)
    expected, _ = original(None, boxes.reshape(2, 4), None)
    assert relative_error(sparse, expected) < 1e-5


@torch.no_grad()
def test_points_and_boxes(encoder: PromptEncoder, original: Any) -> None:
    coords, boxes = torch.rand(2, 2, 2) * 1024, torch.rand(2, 2, 2) * 1024
    labels = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
    corners = torch.tensor([[2.0, 3.0]]).expand(2, -1)
    sparse, _ = encoder(torch.cat([coords, boxes], 1), torch.cat([labels, corners], 1), *NO_MASK)
    expected, _ = original((coords, labels), boxes.reshape(2, 4), None)
    assert relative_error(sparse, expected) < 1e-5


@torch.no_grad()
def test_masks_per_prompt(encoder: PromptEncoder, original: Any) -> None:
    masks = 10 * torch.randn(2, 1, 256, 256)
    dense = encoder.embed_masks(masks, torch.tensor([1.0, 0.0]))
    expected = original(None, None, masks)[1]
    assert relative_error(dense[0], expected[0].flatten(1).mT) < 1e-5
    absent = original(None, torch.zeros(1, 4), None)[1][0]  # CxGxG
    assert torch.equal(dense[1], absent.flatten(1).mT)


@torch.no_grad()
def test_lack_of_masks(encoder: PromptEncoder) -> None:
    expected = encoder.embed_masks(torch.zeros(2, 1, 256, 256), torch.zeros(2))
    assert torch.equal(encoder.embed_no_masks(2), expected)


@torch.no_grad()
@pytest.mark.parametrize("image_size", [64, 512, 1024])
def test_dense_positions(
    encoder: PromptEncoder, image_size: int, mobile_sam_reference: Path
) -> None:
    ours = PromptEncoder(image_size)
    ours.load_state_dict(encoder.state_dict())
    theirs = reference_prompt_encoder(mobile_sam_reference, image_size, encoder.state_dict())
    assert relative_error(ours.dense_positions(), theirs.get_dense_pe().flatten(2).mT) < 1e-5


@torch.no_grad()
def test_padding_ignores_its_coordinates(encoder: PromptEncoder) -> None:
    labels = torch.tensor([[-1.0]])
    far = encoder.embed_points(torch.tensor([[[float("nan"), 1e9]]]), labels)
    assert torch.equal(far[0], encoder.not_a_point_embed.weight)


@torch.no_grad()
def test_ignored_mask_may_hold_anything(encoder: PromptEncoder) -> None:
    dense = encoder.embed_masks(torch.full((1, 1, 256, 256), float("nan")), torch.zeros(1))
    assert bool(dense.isfinite().all())
