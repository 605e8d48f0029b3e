from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_segment_anything import load_segment_anything, randomise, relative_error
from torch import nn

from samclip.export.models.block import SamVitBlock, merge_windows, partition_windows

sides = st.integers(1, 12)


@given(batch=st.integers(1, 3), height=sides, width=sides, size=st.integers(1, 14))
def test_windows_come_back(batch: int, height: int, width: int, size: int) -> None:
    x = torch.arange(batch * height * width * 2.0).reshape(batch, height, width, 2)
    windows = partition_windows(x, size)
    assert windows.shape == (batch * -(-height // size) * -(-width // size), size, size, 2)
    assert windows[0, 0, 0].tolist() == x[0, 0, 0].tolist()
    assert windows.sum() == x.sum()  # the padding is zero
    assert torch.equal(merge_windows(windows, size, (batch, height, width)), x)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "window"),
    [((8, 8), 0), ((8, 6), 0), ((8, 8), 4), ((16, 16), 14), ((4, 4), 14), ((9, 7), 4)],
)
def test_equals_segment_anything(
    size: tuple[int, int], window: int, mobile_sam_reference: Path
) -> None:
    block = SamVitBlock(48, 3, size, window_size=window, mlp_ratio=2.0)
    randomise(block)
    original = load_segment_anything(mobile_sam_reference).image_encoder.Block(
        48,
        3,
        mlp_ratio=2.0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        input_size=size,
    )
    original.load_state_dict(block.state_dict())
    x = torch.randn(2, *size, 48)
    assert relative_error(block(x), original(x)) < 1e-5
