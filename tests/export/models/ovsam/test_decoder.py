from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_segment_anything import (
    load_segment_anything,
    randomise,
    reference_prompt_encoder,
    relative_error,
)
from torch import Tensor

from samclip.export.models.mask_decoder import ImageKeys, PointDecoder
from samclip.export.models.ovsam.decoder import LabelDecoder, PromptedLabelDecoder
from samclip.export.models.prompt_encoder import PromptEncoder

IMAGE = 256
GRID = IMAGE // 16


@pytest.fixture(scope="module")
def decoder() -> PromptedLabelDecoder:
    prompts, masks = PromptEncoder(IMAGE), LabelDecoder(embed_dim=40)
    randomise(prompts, 0)
    randomise(masks, 1)
    return PromptedLabelDecoder(prompts, masks).eval()


def embeddings() -> Tensor:
    return torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(2))


def prompts(kind: str) -> dict[str, Tensor]:
    """Three points, or three boxes, without masks."""
    generator = torch.Generator().manual_seed(3)
    coords = torch.rand(3, 2, 2, generator=generator) * IMAGE
    labels = {"points": [1.0, -1.0], "boxes": [2.0, 3.0]}[kind]
    return {
        "point_coords": coords,
        "point_labels": torch.tensor([labels]).repeat(3, 1),
        "mask_input": torch.zeros(3, 1, 4 * GRID, 4 * GRID),
        "has_mask_input": torch.zeros(3),
    }


def reference_decoder(segment_any: Path, ours: LabelDecoder) -> Any:
    """segment-anything's decoder of one mask token, our label token in place of its IoU token."""
    modules = load_segment_anything(segment_any)
    transformer = modules.transformer.TwoWayTransformer(
        depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048
    )
    decoder = modules.mask_decoder.MaskDecoder(
        transformer_dim=256, transformer=transformer, num_multimask_outputs=0
    )
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("label_")}
    state["iou_token.weight"] = ours.label_token.weight
    own = decoder.state_dict()
    heads = {k: v for k, v in own.items() if k.startswith("iou_prediction_head.")}
    decoder.load_state_dict(state | heads)
    return decoder.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_equals_segment_anything_of_one_mask(
    kind: str, decoder: PromptedLabelDecoder, mobile_sam_reference: Path
) -> None:
    given = prompts(kind)
    encoder = reference_prompt_encoder(
        mobile_sam_reference, IMAGE, decoder.prompt_encoder.state_dict()
    )
    coords, labels = given["point_coords"], given["point_labels"]
    asked = (
        {"points": (coords[:, :1], labels[:, :1]), "boxes": None}
        if kind == "points"
        else {"points": None, "boxes": coords.reshape(3, 4)}
    )
    sparse, dense = encoder(**asked, masks=None)
    reference = reference_decoder(mobile_sam_reference, decoder.mask_decoder)
    expected, _ = reference.predict_masks(embeddings(), encoder.get_dense_pe(), sparse, dense)
    found = decoder(embeddings(), **given)
    assert found.shape == (3, 1, 4 * GRID, 4 * GRID)
    assert relative_error(found, expected) < 1e-5  # float32
    (shared,) = PointDecoder(decoder)(*ImageKeys(decoder)(embeddings()), coords, labels)
    assert relative_error(shared, expected) < 1e-5


@torch.no_grad()
def test_the_label_token_shapes_masks_but_its_mlp_does_nothing(
    decoder: PromptedLabelDecoder,
) -> None:
    before = decoder(embeddings(), **prompts("points"))
    for parameter in decoder.mask_decoder.label_mlp.parameters():
        parameter.add_(1.0)
    assert torch.equal(decoder(embeddings(), **prompts("points")), before)
    decoder.mask_decoder.label_token.weight.add_(1.0)
    assert relative_error(decoder(embeddings(), **prompts("points")), before) > 1e-3
    decoder.mask_decoder.label_token.weight.sub_(1.0)
