"""The last transformer block of an image encoder, as weights for SAM's `Block`.

SAM's ViT has such a block itself. TinyViT's is close: its attention reads q, k and v from one
projection, laid out head by head instead of [q | k | v], and its LayerNorms sit inside attention
and MLP. Its depthwise convolution and its attention biases (which depend on the offset alone, not
on the query) have no counterpart; the difference in the LayerNorms' epsilon (1e-5, here 1e-6) is
left as it is.
"""

from __future__ import annotations

from torch import Tensor

from samclip.export.models.block import Block
from samclip.export.models.sam_vit import SamVit
from samclip.export.models.tiny_vit import TinyVit
from samclip.export.models.tiny_vit_block import TinyVitBlock

# Names in `Block` <- names in `TinyVitBlock`; `attn.qkv` is permuted besides.
TINY_VIT_NAMES = {
    "norm1": "attn.norm",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "mlp.norm",
    "mlp.lin1": "mlp.fc1",
    "mlp.lin2": "mlp.fc2",
}


def last_block(encoder: SamVit | TinyVit) -> Block | TinyVitBlock:
    """Return the encoder's last transformer block itself."""
    return [part for part in encoder.modules() if isinstance(part, (Block, TinyVitBlock))][-1]


def block_state(block: Block | TinyVitBlock) -> dict[str, Tensor]:
    """Return copies of a block's weights under the names, and in the layout, of `Block`.

    From a TinyViT block `attn.rel_pos_h` and `attn.rel_pos_w` are missing.
    """
    state = {name: tensor.detach().clone() for name, tensor in block.state_dict().items()}
    if isinstance(block, Block):
        return state
    state = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in TINY_VIT_NAMES.items()
        for kind in ("weight", "bias")
    }
    for name in ("attn.qkv.weight", "attn.qkv.bias"):
        state[name] = join_heads(state[name], block.attn.num_heads)
    return state


def join_heads(qkv: Tensor, num_heads: int) -> Tensor:
    """Reorder rows [q k v] of head 0, [q k v] of head 1 ... to [q of all heads | k | v].

    `qkv` is the weight 3CxC or the bias 3C of a projection.
    """
    split = qkv.reshape(num_heads, 3, -1, *qkv.shape[1:])  # heads, 3, d, ...
    return split.transpose(0, 1).reshape(qkv.shape)  # 3C, ...
