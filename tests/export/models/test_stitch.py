from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import LiteFeatures
from samclip.export.models.stitch import Stitch

CHANNELS = (3, 4, 5, 6)
UNFOLDED = 3 * 4 + 4 * 9 + 5 + 6


def random_features(grid: int = 4) -> LiteFeatures:
    """Two images' maps whose stride-16 map is `grid` tokens wide."""
    torch.manual_seed(0)
    sides = (4 * grid, 2 * grid, grid, grid // 2)
    return LiteFeatures(*(torch.randn(2, c, s, s) for c, s in zip(CHANNELS, sides, strict=True)))


def linear(design: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bfhw,fc->bchw", design, weight) + bias[:, None, None]


@torch.inference_mode()
def test_is_linear_in_its_design() -> None:
    features, stitch = random_features(), Stitch(CHANNELS, 7)
    weight, bias = torch.randn(UNFOLDED, 7), torch.randn(7)
    stitch.set_linear(weight, bias)
    design = stitch.design(features)
    assert design.shape == (2, UNFOLDED, 8, 8)
    torch.testing.assert_close(stitch(features), linear(design, weight, bias), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_least_squares_finds_the_map_that_made_the_target() -> None:
    truth, fitted = Stitch(CHANNELS, 7).double(), Stitch(CHANNELS, 7).double()
    features = LiteFeatures(*(m.double() for m in random_features(grid=32)))
    rows = truth.design(features).permute(0, 2, 3, 1).flatten(0, 2)  # B G G, F
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    target = truth(features).permute(0, 2, 3, 1).flatten(0, 2)  # B G G, C
    solution = torch.linalg.lstsq(rows, target).solution
    fitted.set_linear(solution[:-1], solution[-1])
    for found, expected in zip(fitted.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=rf"\({UNFOLDED}, 7\).*not \({UNFOLDED + 1}, 7\)"):
        Stitch(CHANNELS, 7).set_linear(torch.zeros(UNFOLDED + 1, 7), torch.zeros(7))
