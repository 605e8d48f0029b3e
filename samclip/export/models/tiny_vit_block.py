"""TinyViT's transformer block: windowed attention with learned biases, local convolution, MLP.

After TinyViT (Wu et al., arXiv 2207.10666, section 3.3). LayerNorms keep PyTorch's default
epsilon of 1e-5, unlike SAM's ViT (1e-6).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.attention import LoweredAttention
from samclip.export.models.block import merge_windows, partition_windows
from samclip.export.models.conv_norm import ConvNorm


def bias_indices(window_size: int) -> Tensor:
    """Which attention bias each (query, key) pair of a window takes: int64, NxN, N = window_size^2.

    The bias depends on the absolute offset (|dy|, |dx|) alone; offset (a, b) has number
    a * window_size + b, the order in which the original code meets the offsets.
    """
    side = torch.arange(window_size)
    rows, columns = side.repeat_interleave(window_size), side.repeat(window_size)
    dy = (rows[:, None] - rows[None, :]).abs()
    dx = (columns[:, None] - columns[None, :]).abs()
    return dy * window_size + dx


class WindowAttention(LoweredAttention):
    """LayerNorm, then multi-head attention within windows: MxNxC -> MxNxC, N = window_size^2.

    `qkv` is laid out head by head: rows [q, k, v] of head 0, then of head 1, and so on. The biases
    are gathered in every call, so they are never stale (the original caches them in `eval()`, and
    weights loaded after it go unseen); as the indices are constant, engines fold the gather.

    Of the lowerings only `fused` differs: windows are small, with nothing to chunk or to fold.
    """

    attention_bias_idxs: Tensor

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        self.register_buffer("attention_bias_idxs", bias_indices(window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each of the M windows."""
        windows, tokens, width = x.shape
        qkv = self.qkv(self.norm(x))
        qkv = qkv.reshape(windows, tokens, self.num_heads, -1).transpose(1, 2)  # M, heads, N, 3d
        q, k, v = qkv.chunk(3, dim=-1)  # M, heads, N, d
        bias = self.attention_biases.index_select(1, self.attention_bias_idxs.flatten())
        bias = bias.reshape(self.num_heads, tokens, tokens)  # heads, N, N
        x = self._attend(q, k, v, bias).reshape(windows, tokens, width)  # M, N, C
        out: Tensor = self.proj(x)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Map queries, keys and values, M x heads x N x d, to M x N x heads x d."""
        if self.lowering == "fused":
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
            # A real copy, as in `RelPosAttention`: its strides are those of one kernel.
            return x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias  # M, heads, N, N
        found: Tensor = scores.softmax(dim=-1) @ v
        return found.transpose(1, 2)


class Mlp(nn.Module):
    """LayerNorm, then a perceptron with one hidden layer and GELU, over the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ...xC to ...xC."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TinyVitBlock(nn.Module):
    """Windowed attention, depthwise 3x3 convolution, MLP: BxHxWxC -> BxHxWxC.

    The grid is padded with zeros at the bottom and right to whole windows; as in the original,
    the padding takes part in the attention.
    """

    def __init__(self, width: int, num_heads: int, window_size: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = WindowAttention(width, num_heads, window_size)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Refine BxHxWxC tokens."""
        x = x + self._attend(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # B, H, W, C
        out: Tensor = x + self.mlp(x)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Attend window by window over the padded grid, and crop."""
        side = self.window_size
        windows = self.attn(partition_windows(x, side).flatten(1, 2))  # M, N, C
        return merge_windows(windows, side, (x.shape[0], x.shape[1], x.shape[2]))
