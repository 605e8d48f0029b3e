"""The transformer block of SAM's image encoder: windowed or global attention, then an MLP."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.attention import Recursion, RelPosAttention


class Mlp(nn.Module):
    """Two linear layers with an activation between, by default GELU; keys `lin1/2`."""

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of `x`, ...xC, through the hidden width and back."""
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out


class SamVitBlock(nn.Module):
    """Pre-norm block, BHWC to BHWC, on a grid of `input_size` = (h, w) tokens.

    `window_size` 0 is global attention; otherwise attention stays within square windows of that
    many tokens a side, the grid padded with zeros at the bottom and right to whole windows. As in
    segment-anything the padding comes after `norm1` and is attended to like any token.
    State-dict keys are those of segment-anything's `Block`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        input_size: tuple[int, int],
        window_size: int = 0,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        span = (window_size, window_size) if window_size else input_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelPosAttention(dim, num_heads, span)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def crop(self, grid: tuple[int, int]) -> None:
        """Take a grid of (h, w) tokens, at most those that the block was made for."""
        if not self.window_size:
            self.attn.crop(grid)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x`, BxHxWxC float."""
        batch, height, width, _ = x.shape
        residual = x
        x = self.norm1(x)
        if self.window_size:
            windows = self.attn(partition_windows(x, self.window_size))
            x = merge_windows(windows, self.window_size, (batch, height, width))
        else:
            x = self.attn(x)
        return self._finish(residual + x)

    def twice(self, x: Tensor, again: Recursion) -> tuple[Tensor, Tensor]:
        """Transform `x` as `forward` does, and once more by recursive attention; no windows."""
        plain, recursive = self.attn.twice(self.norm1(x), again)
        return self._finish(x + plain), self._finish(x + recursive)

    def _finish(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def partition_windows(x: Tensor, size: int) -> Tensor:
    """Cut BxHxWxC into (B*windows) x size x size x C, windows in row-major order, zero padded."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // size), -(-width // size)
    bottom, right = rows * size - height, columns * size - width
    if bottom or right:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.reshape(batch, rows, size, columns, size, channels)  # BxRxSxCxSxD
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, size, size, channels)


def merge_windows(windows: Tensor, size: int, shape: tuple[int, int, int]) -> Tensor:
    """Undo `partition_windows` for a map of `shape` = (batch, height, width): BxHxWxC."""
    batch, height, width = shape
    rows, columns = -(-height // size), -(-width // size)
    x = windows.reshape(batch, rows, columns, size, size, windows.shape[-1])  # BxRxCxSxSxD
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * size, columns * size, -1)  # BxHpxWpxD
    return x[:, :height, :width]
