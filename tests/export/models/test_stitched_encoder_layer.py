from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import LiteFeatures
from samclip.export.models.stitched_encoder import Stitch

CHANNELS = (2, 3, 4, 5, 6)
UNFOLDED = 2 * 16 + 3 * 16 + 4 * 9 + 5 + 6
WIDTH, HIDDEN = 7, 3


def random_features(grid: int = 4) -> LiteFeatures:
    """Two images' maps whose stride-16 map is `grid` tokens wide."""
    torch.manual_seed(0)
    sides = (8 * grid, 4 * grid, 2 * grid, grid, grid // 2)
    return LiteFeatures(*(torch.randn(2, c, s, s) for c, s in zip(CHANNELS, sides, strict=True)))


def stitch_of(width: int = WIDTH) -> Stitch:
    return Stitch(CHANNELS, width, HIDDEN)


def by_design(design: Tensor, weight: Tensor, bias: Tensor, project: Tensor) -> Tensor:
    seen = torch.einsum("bfhw,fc->bchw", design, weight) + bias[:, None, None]
    hidden = seen[:, WIDTH:].clamp(min=0)
    return seen[:, :WIDTH] + torch.einsum("bhij,hc->bcij", hidden, project)


@torch.inference_mode()
def test_is_a_hidden_layer_on_its_design() -> None:
    features, stitch = random_features(), stitch_of()
    outputs = WIDTH + HIDDEN
    weight, bias = torch.randn(UNFOLDED, outputs), torch.randn(outputs)
    project = torch.randn(HIDDEN, WIDTH)
    stitch.set_weights(weight, bias, project)
    design = stitch.design(features)
    assert design.shape == (2, UNFOLDED, 8, 8)
    expected = by_design(design, weight, bias, project)
    # float32 sums of 130 products, in another order
    torch.testing.assert_close(stitch(features), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_least_squares_finds_the_map_that_made_the_target() -> None:
    truth = stitch_of().double()  # linear, as a new one is
    features = LiteFeatures(*(m.double() for m in random_features(grid=32)))
    rows = truth.design(features).permute(0, 2, 3, 1).flatten(0, 2)  # B G G, F
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    target = truth(features).permute(0, 2, 3, 1).flatten(0, 2)  # B G G, C
    solution = torch.linalg.lstsq(rows, target).solution
    linear = [conv.weight[:WIDTH].flatten(1).T for conv in truth.parts]  # F, C
    torch.testing.assert_close(solution[:-1], torch.cat(linear), rtol=0, atol=1e-8)
    torch.testing.assert_close(solution[-1], truth.bias[:WIDTH], rtol=0, atol=1e-8)


def test_another_shape_is_refused() -> None:
    outputs = WIDTH + HIDDEN
    weight, bias = torch.zeros(UNFOLDED + 1, outputs), torch.zeros(outputs)
    with pytest.raises(InputError, match=rf"\({UNFOLDED}, {outputs}\).*not .*\({UNFOLDED + 1}, "):
        stitch_of().set_weights(weight, bias, torch.zeros(HIDDEN, WIDTH))
