from __future__ import annotations

import torch

from samclip.export.models.block import SamVitBlock
from samclip.export.models.clip_head import block_state, join_heads, last_block
from samclip.export.models.tiny_vit import TinyVit, TinyVitBlock


def test_join_heads_by_hand() -> None:
    # Two heads of size 2: q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1 -> q0 q0 q1 q1, k..., v...
    bias = torch.tensor([0, 1, 20, 21, 40, 41, 2, 3, 22, 23, 42, 43])
    expected = [0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43]
    assert join_heads(bias, num_heads=2).tolist() == expected
    weight = bias[:, None] * torch.ones(1, 4, dtype=torch.int64)
    assert join_heads(weight, num_heads=2)[:, 3].tolist() == expected


def test_last_block_is_the_last() -> None:
    encoder = TinyVit(64)
    assert last_block(encoder) is encoder.layers[3].blocks[1]


def test_a_tiny_vit_block_gives_every_weight_but_relative_positions() -> None:
    names = SamVitBlock(32, 2, (7, 7)).state_dict().keys()
    state = block_state(TinyVitBlock(32, 2, window_size=7, mlp_ratio=4.0))
    assert state.keys() == names - {"attn.rel_pos_h", "attn.rel_pos_w"}


def test_states_are_copies() -> None:
    block = SamVitBlock(32, 2, (7, 7))
    state = block_state(block)
    state["norm1.weight"].zero_()
    assert block.norm1.weight.all()
