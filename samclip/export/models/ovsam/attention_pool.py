"""The attention that pools a map of CLIP's ResNet into one vector of the text space.

CLIP (Radford et al., 2021), section 2.4: a transformer-style attention whose query is the map's
mean. open_clip's `AttentionPool2d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samclip.export.models.two_way_transformer import CrossAttention


class AttentionPool(nn.Module):
    """Maps of a fixed grid to vectors of `embed_dim`.

    Position 0 is the mean's, the others are the cells', row by row. Only the mean asks: so it is
    multiplied with the keys' and values' matrices instead of every cell (`CrossAttention.read`,
    exact), which for RN50x16 takes 74 M multiplications a map instead of 2.8 G.
    """

    def __init__(self, channels: int, grid: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, channels) / channels**0.5)
        self.attention = CrossAttention(channels, num_heads, out_dim=embed_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool N maps, NxCxPxP with P the grid, to NxD, not normalised."""
        cells = maps.flatten(2).mT  # NxLxC
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)  # Nx(1+L)xC
        tokens = tokens + self.positional_embedding
        return self.attention.read(tokens[:, :1], tokens, tokens).squeeze(1)
