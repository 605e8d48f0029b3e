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
    results = ours(image.flatten(2).mT, positions.flatten(2).mT, tokens)
    expected = theirs(image, positions.expand(2, -1, -1, -1), tokens)
    for result, wanted in zip(results, expected, strict=True):
        assert relative_error(result, wanted) < 1e-5


def test_gradients_reach_every_parameter() -> None:
    model = TwoWayTransformer(depth=2, dim=32, num_heads=2, mlp_dim=48)
    randomise(model)
    tokens, image = model(torch.randn(1, 16, 32), torch.randn(1, 16, 32), torch.randn(1, 3, 32))
    (tokens.square().sum() + image.square().sum()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    reads = ["layers.0.cross_attn_token_to_image", "layers.1.cross_attn_token_to_image"]
    # a bias of keys changes no softmax: no gradient, where the common form has one of zeros
    assert without == {f"{name}.k_proj.bias" for name in [*reads, "final_attn_token_to_image"]}
