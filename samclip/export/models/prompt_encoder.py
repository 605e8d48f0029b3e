"""SAM's prompt encoder: points, box corners and masks to embeddings.

Segment Anything (Kirillov et al., 2023), appendix A, "Prompt encoder"; segment-anything's
`PromptEncoder`. Written without masked assignment, so that it exports with a dynamic number of
prompts and points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.norms import LayerNorm2d

PATCH = 16
PADDING_LABEL = -1
NUM_POINT_LABELS = 4  # background, foreground, top-left and bottom-right corner of a box
OUTSIDE = -20.0  # the logit of a mask on padding, about what the decoder itself predicts there


class PromptEncoder(nn.Module):
    """Prompts for square images of `image_size` pixels, a multiple of 16.

    State-dict keys are those of segment-anything's `prompt_encoder`, without the prefix; no
    tensor depends on the image size.
    """

    outside: Tensor  # 1x1xC: a cell that is outside of a mask; there after `crop`

    def __init__(
        self, image_size: int = 1024, embed_dim: int = 256, mask_channels: int = 16
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = image_size // PATCH
        self.cells = (self.grid, self.grid)
        self.embed_dim = embed_dim
        self.pe_layer = FourierPositions(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(NUM_POINT_LABELS)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def crop(self, canvas: tuple[int, int]) -> None:
        """Take prompts for images of `canvas` (h, w) pixels, the upper left of the square.

        The rest of the square stays in sight as padding. Dense results have all of its cells, in
        the order of `padding_last`. Positions stay shares of the square: each place has the code
        that it has there, where it was learned. Call it after the weights are loaded: what padding
        is in a mask is computed here.
        """
        rows, columns = (side // PATCH for side in canvas)
        self.cells = (rows, columns)
        with torch.no_grad():
            cell = self.no_mask_embed.weight.new_full((1, 1, 4, 4), OUTSIDE)
            self.register_buffer("outside", self._downscale(cell), persistent=False)

    def forward(
        self, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embed B prompts of N points and a mask each: sparse BxNxC and dense BxLxC.

        L = G * G are the cells of the square, row by row, after `crop` in the order of
        `padding_last`. The arguments are those of `embed_points` and `embed_masks`.
        """
        sparse = self.embed_points(point_coords, point_labels)
        return sparse, self.embed_masks(mask_input, has_mask_input)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points, BxNx2 (x, y) in pixels of the resized input frame, to BxNxC.

        `labels`, BxN: 1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding (its
        coordinates are ignored).
        """
        positions = self.pe_layer((coords + 0.5) / self.image_size)  # pixel centres
        padding = (labels == PADDING_LABEL).unsqueeze(-1)  # BxNx1
        kinds = [self.not_a_point_embed.weight, *self.point_embeddings.parameters()]
        index = (labels - PADDING_LABEL).long().clamp(0, NUM_POINT_LABELS)  # BxN
        positions = torch.where(padding, torch.zeros_like(positions), positions)
        return positions + F.embedding(index, torch.cat(kinds))  # table 5xC, by label + 1

    def embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Embed masks, Bx1x4Gx4G logits (Bx1x4hx4w after `crop`), to BxLxC.

        Where `has_mask_input`, B (0 or 1), is 0 the mask is ignored and the learned "no mask"
        embedding stands everywhere. Padding is outside of every mask.
        """
        given = (has_mask_input > 0.5).reshape(-1, 1, 1)  # Bx1x1
        embedded = self._downscale(mask_input)
        if padding := self.grid**2 - math.prod(self.cells):
            outside = self.outside.expand(embedded.shape[0], padding, -1)
            embedded = torch.cat([embedded, outside], dim=1)
        return torch.where(given, embedded, self.no_mask_embed.weight)

    def _downscale(self, masks: Tensor) -> Tensor:
        """Embed masks, Bx1x4hx4w, cell by cell: Bx(hw)xC."""
        embedded = masks
        for layer in self.mask_downscaling:
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):  # the last, wide one
                cells = embedded.flatten(2).mT  # BxLx16: transposed while it is narrow
                embedded = F.linear(cells, layer.weight.flatten(1), layer.bias)
            else:
                embedded = layer(embedded)
        return embedded

    def embed_no_masks(self, count: int) -> Tensor:
        """Embed the lack of a mask in each of `count` prompts, as `embed_masks` does: BxLxC."""
        return self.no_mask_embed.weight.expand(count, self.grid**2, -1)

    def dense_positions(self) -> Tensor:
        """Return the position encoding of the square's cells, 1xLxC, row by row.

        After `crop` they are in the order of `padding_last`. segment-anything's `get_dense_pe`.
        """
        weight = self.pe_layer.positional_encoding_gaussian_matrix
        places = (torch.arange(self.grid, device=weight.device).to(weight) + 0.5) / self.grid
        y, x = torch.meshgrid(places, places, indexing="ij")
        encoded: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))  # GxGxC
        return padding_last(encoded.unsqueeze(0), self.cells)


def padding_last(square: Tensor, cells: tuple[int, int]) -> Tensor:
    """Put the cells of a square, 1xGxGxC, in a row: those of the upper left h x w, then the rest.

    `cells` are (h, w), and each part is in rows: 1x(GG)xC. Where h x w is the square, that is all.
    """
    rows, columns = cells
    parts = square[:, :rows, :columns], square[:, :rows, columns:], square[:, rows:]
    held = [part.flatten(1, 2) for part in parts if part.numel()]
    return held[0] if len(held) == 1 else torch.cat(held, dim=1)


class FourierPositions(nn.Module):
    """Random Fourier features of 2-D positions (Tancik et al., 2020), the frequencies fixed.

    segment-anything's `PositionEmbeddingRandom`, with scale 1.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def forward(self, coords: Tensor) -> Tensor:
        """Encode (x, y) in [0, 1], ...x2, as sines and cosines, ...x(2 * num_features)."""
        phases = (2 * coords - 1) @ self.positional_encoding_gaussian_matrix
        phases = 2 * math.pi * phases
        return torch.cat([phases.sin(), phases.cos()], dim=-1)
