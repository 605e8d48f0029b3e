from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_segment_anything import load_segment_anything, relative_error
from torch import nn

from samclip.export.models.attention import RelPosAttention, relative_index
from samclip.export.models.pos_embed import fit_positions, resize_absolute, resize_relative


@pytest.mark.parametrize(("old", "new"), [(64, 32), (14, 14), (14, 21), (8, 64)])
def test_relative_equals_segment_anything(old: int, new: int, mobile_sam_reference: Path) -> None:
    table = torch.randn(2 * old - 1, 16)
    original = load_segment_anything(mobile_sam_reference).image_encoder.get_rel_pos
    ours = resize_relative(table, 2 * new - 1)[relative_index(new)]
    assert relative_error(ours, original(new, new, table)) < 1e-6


@given(old=st.integers(2, 20), new=st.integers(1, 20))
def test_absolute_keeps_constants_and_symmetry(old: int, new: int) -> None:
    assert torch.allclose(resize_absolute(torch.ones(1, old, old, 3), (new, new)), torch.ones(1))
    positions = torch.randn(1, old, old, 2)
    turned = resize_absolute(positions.transpose(1, 2), (new, new)).transpose(1, 2)
    assert torch.allclose(resize_absolute(positions, (new, new)), turned, atol=1e-5)


def test_absolute_halves_a_smooth_map_by_averaging() -> None:
    ramp = torch.arange(64.0).reshape(1, 1, 64, 1).expand(1, 64, 64, 1)
    halved = resize_absolute(ramp, (32, 32))[0, 16, :, 0]
    expected = torch.arange(32) * 2 + 0.5  # the centre of two old cells
    assert torch.allclose(halved[2:-2], expected[2:-2], atol=1e-4)  # the border is clamped


def test_same_size_is_untouched() -> None:
    positions, table = torch.randn(1, 4, 4, 8), torch.randn(7, 8)
    assert resize_absolute(positions, (4, 4)) is positions
    assert resize_relative(table, 7) is table


def test_dtype_stays() -> None:
    assert resize_absolute(torch.randn(1, 4, 4, 8).half(), (8, 8)).dtype == torch.float16
    assert resize_relative(torch.randn(7, 8).half(), 9).dtype == torch.float16


class Positioned(nn.Module):
    def __init__(self, grid: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, grid, grid, 8))
        self.attn = RelPosAttention(8, 2, (grid, grid))


def test_fit_positions_touches_positions_only() -> None:
    state = Positioned(8).state_dict()
    target = Positioned(4)
    fitted = fit_positions(state, target)
    assert fitted["attn.qkv.weight"] is state["attn.qkv.weight"]
    assert fitted["pos_embed"].shape == (1, 4, 4, 8)
    assert fitted["attn.rel_pos_h"].shape == (7, 4)
    target.load_state_dict(fitted)


def test_fit_positions_leaves_misfits_to_the_loader() -> None:
    state = {
        "pos_embed": torch.zeros(1, 8, 8, 5),  # other channels
        "attn.rel_pos_h": torch.zeros(15),  # other rank
        "attn.rel_pos_w": torch.zeros(15, 3),
        "stray.rel_pos_w": torch.zeros(15, 4),
    }
    fitted = fit_positions(state, Positioned(4))
    assert all(fitted[key] is value for key, value in state.items())
