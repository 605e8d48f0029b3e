"""MobileSAM end to end on real weights: our encoder and decoder against the original ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference_mobile_sam import reference_mobile_sam, sam_input
from torch import Tensor

from samclip.export.models.mask_decoder import PromptedMaskDecoder, SamMaskDecoder
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.tiny_vit import IGNORED_CHECKPOINT_KEYS, TinyVit

SIZE = 1024
TOLERANCE = 1e-5  # largest absolute difference over the largest magnitude


@dataclass(frozen=True)
class Prompt:
    """B prompts of N `points` each, BxNx2 (x, y), or `boxes` Bx4, or both; `mask` Bx1x256x256."""

    points: list[list[tuple[float, float]]] | None = None
    labels: list[list[int]] | None = None
    boxes: list[tuple[float, float, float, float]] | None = None
    mask: bool = False


# The photo, 600x400, fills 1024x683 of the input frame.
CUP = (290.0, 27.0, 702.0, 526.0)
PROMPTS = {
    "point": Prompt([[(512.0, 340.0)]], [[1]]),
    "points": Prompt([[(512.0, 340.0), (100.0, 60.0), (700.5, 400.25)]], [[1, 0, 1]]),
    "batch": Prompt([[(512.0, 340.0), (9.0, 9.0)], [(300.0, 300.0), (600.0, 10.0)]], [[1, 0]] * 2),
    "box": Prompt(boxes=[CUP]),
    "boxes": Prompt(boxes=[CUP, (0.0, 0.0, 1023.0, 682.0)]),
    "point and box": Prompt([[(512.0, 340.0)]], [[1]], [CUP]),
    "box and mask": Prompt(boxes=[CUP], mask=True),
    "point and mask": Prompt([[(512.0, 340.0)]], [[1]], mask=True),
}


def load(module: Any, state: dict[str, Tensor], prefix: str) -> Any:
    """Load the tensors below `prefix`, all of them but the known leftovers."""
    part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    module.load_state_dict({k: v for k, v in part.items() if k not in IGNORED_CHECKPOINT_KEYS})
    return module.eval()


@dataclass(frozen=True)
class Pair:
    """The original model and our decoder, and what each encoder makes of the photo."""

    original: Any
    decoder: PromptedMaskDecoder
    original_embeddings: Tensor
    embeddings: Tensor


@pytest.fixture(scope="module")
def pair(mobile_sam_checkpoint: Path, mobile_sam_reference: Path, photo: NDArray[np.uint8]) -> Pair:
    state = torch.load(mobile_sam_checkpoint, map_location="cpu", weights_only=True)
    original = reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)
    encoder = fold_batch_norms(load(TinyVit(SIZE), state, "image_encoder."))
    decoder = PromptedMaskDecoder(
        load(PromptEncoder(SIZE), state, "prompt_encoder."),
        load(SamMaskDecoder(), state, "mask_decoder."),
    )
    image = sam_input(photo, SIZE)
    with torch.inference_mode():
        return Pair(original, decoder.eval(), original.image_encoder(image), encoder(image)[1])


def mask_prompt(prompt: Prompt) -> Tensor:
    """Logits Bx1x256x256 of a soft disc, as a previous round would give."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    disc = 8 - ((x - 128) ** 2 + (y - 85) ** 2).sqrt() / 8
    count = len(prompt.points or prompt.boxes or [])
    return disc.expand(count, 1, 256, 256)


def original_answer(pair: Pair, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """IoU predictions Bx4 and masks Bx4x256x256: single mask first, then the multimask ones."""
    sam = pair.original
    points = None
    if prompt.points is not None:
        points = (torch.tensor(prompt.points), torch.tensor(prompt.labels))
    sparse, dense = sam.prompt_encoder(
        points=points,
        boxes=None if prompt.boxes is None else torch.tensor(prompt.boxes),
        masks=mask_prompt(prompt) if prompt.mask else None,
    )
    arguments = {
        "image_embeddings": pair.original_embeddings,
        "image_pe": sam.prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
    }
    single = sam.mask_decoder(**arguments, multimask_output=False)
    multi = sam.mask_decoder(**arguments, multimask_output=True)
    return torch.cat([single[1], multi[1]], 1), torch.cat([single[0], multi[0]], 1)


def our_answer(pair: Pair, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The same from our encoder and decoder: boxes as labels 2 and 3, padding without a box."""
    coords, labels = [], []
    if prompt.points is not None:
        coords.append(torch.tensor(prompt.points))
        labels.append(torch.tensor(prompt.labels, dtype=torch.float32))
    count = len(prompt.points or prompt.boxes or [])
    if prompt.boxes is not None:
        coords.append(torch.tensor(prompt.boxes).reshape(count, 2, 2))
        labels.append(torch.tensor([[2.0, 3.0]]).expand(count, 2))
    else:
        coords.append(torch.zeros(count, 1, 2))
        labels.append(-torch.ones(count, 1))
    mask = mask_prompt(prompt) if prompt.mask else torch.zeros(count, 1, 256, 256)
    has_mask = torch.full((count,), float(prompt.mask))
    return pair.decoder(pair.embeddings, torch.cat(coords, 1), torch.cat(labels, 1), mask, has_mask)


@pytest.mark.parametrize("name", PROMPTS)
@torch.inference_mode()
def test_answers_like_the_original(pair: Pair, name: str) -> None:
    prompt = PROMPTS[name]
    for found, expected in zip(
        our_answer(pair, prompt), original_answer(pair, prompt), strict=True
    ):
        assert found.shape == expected.shape
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE


@torch.inference_mode()
def test_the_cup_is_found(pair: Pair) -> None:
    """The comparison is about something: the mask of the cup's box is the cup."""
    iou, masks = our_answer(pair, PROMPTS["box"])
    y, x = torch.where(masks[0, 0] > 0)
    found = 4.0 * torch.stack([x.min(), y.min(), x.max(), y.max()])
    assert iou[0, 0] > 0.8
    assert (found - torch.tensor(CUP)).abs().max() < 40  # pixels of the input frame
    assert 0.1 < (masks[0, 0] > 0).float().mean() < 0.2
