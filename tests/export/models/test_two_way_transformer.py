from __future__ import annotations

from pathlib import Path

import torch
from reference_segment_anything import load_segment_anything, randomise, relative_error

from samclip.export.models.two_way_transformer import TwoWayTransformer


@torch.no_grad()
def test_equals_segment_anything(mobile_sam_reference: Path) -> None:
    ours = TwoWayTransformer(depth=3, dim=64, num_heads=4, mlp_dim=96)
    randomise(ours)
    theirs = load_segment_anything(mobile_sam_reference).transformer.TwoWayTransformer(3, 64, 4, 96)
    theirs.load_state_dict(ours.state_dict())
    image, positions = torch.randn(2, 64, 6, 6), torch.randn(1, 64, 6, 6)
    tokens = torch.randn(2, 7, 64)
    results = ours(image, positions, tokens)
    expected = theirs(image, positions.expand(2, -1, -1, -1), tokens)
    for result, wanted in zip(results, expected, strict=True):
        assert relative_error(result, wanted) < 1e-5


def test_gradients_reach_every_parameter() -> None:
    model = TwoWayTransformer(depth=2, dim=32, num_heads=2, mlp_dim=48)
    randomise(model)
    tokens, image = model(torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4), torch.randn(1, 3, 32))
    (tokens.square().sum() + image.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
