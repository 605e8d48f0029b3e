"""SAM's mask decoder, and the module that is exported: prompts in, masks and their quality out.

Segment Anything (Kirillov et al., 2023), appendix A, "Lightweight mask decoder"; segment-anything's
`MaskDecoder`. Masks are upscaled as tokens: channels stay last, and convolutions are products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.norms import LayerNorm2d
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.two_way_transformer import ImageSide, TwoWayTransformer

STRIP_TOKENS = 512  # image tokens upscaled at once: 1 MB of pixels for each prompt
MAX_STRIPS = 8


class TokenDecoder(nn.Module):
    """The common part of decoders with a leading token and some mask tokens: their masks."""

    transformer: TwoWayTransformer
    mask_tokens: nn.Embedding
    output_upscaling: Upscaling
    output_hypernetworks_mlps: nn.ModuleList

    @property
    def leading(self) -> Tensor:
        """The first token, 1xC."""
        raise NotImplementedError

    def outputs(self, leading: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Return the decoder's outputs, given the updated leading token, BxC, and the masks."""
        raise NotImplementedError

    def decode(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let the tokens [leading, masks, prompts] attend to the image, and compute the masks.

        The arguments are those of `SamMaskDecoder.forward`. Returns the updated leading token, BxC,
        and BxMx4Gx4G logits, one mask for each of M mask tokens.
        """
        tokens = self._tokens(sparse)
        seen = seen_tokens(image_embeddings, padding)
        tokens, image = self.transformer(seen + dense, image_pe, tokens)
        rows, columns = image_embeddings.shape[-2:]
        shown = image if padding is None else image[:, : rows * columns]
        masks = self._weights(tokens) @ self.output_upscaling(shown).mT  # BxMx(16l)
        return tokens[:, 0], in_rows(masks, rows, columns)

    def decode_shared(
        self,
        image: Tensor,
        side: ImageSide,
        image_pe: Tensor,
        sparse: Tensor,
        cells: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Compute `decode` for B prompts without masks on one image.

        `image`, 1xLxC, are the image's tokens with the embedding of no mask, and `side` is what the
        transformer makes of them. `cells` are (h, w) of the tokens that show the image; their masks
        are made in strips of rows, which stay in a processor's caches.
        """
        tokens = self._tokens(sparse)
        read = 1 + len(self.output_hypernetworks_mlps)
        tokens, image = self.transformer.forward_shared(image, side, image_pe, tokens, read)
        weights = self._weights(tokens)
        rows, columns = cells
        step = max(1, STRIP_TOKENS // columns, math.ceil(rows / MAX_STRIPS))
        matrices = self.output_upscaling.matrices()
        strips = []
        for first in range(0, rows, step):
            stop = min(rows, first + step)
            part = image[:, first * columns : stop * columns]
            pixels = self.output_upscaling.apply_to(part, matrices)
            strips.append(in_rows(weights @ pixels.mT, stop - first, columns))
        return tokens[:, 0], torch.cat(strips, dim=2)

    def _tokens(self, sparse: Tensor) -> Tensor:
        own = torch.cat([self.leading, self.mask_tokens.weight])  # (1+M)xC
        return torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], dim=1)  # Bx(1+M+N)xC

    def _weights(self, tokens: Tensor) -> Tensor:
        """Return what each mask token makes of a pixel's D numbers: BxMxD."""
        mlps = enumerate(self.output_hypernetworks_mlps)
        return torch.stack([mlp(tokens[:, 1 + place]) for place, mlp in mlps], dim=1)


class SamMaskDecoder(TokenDecoder):
    """Four masks per prompt with their predicted IoU: 0 is the single mask, 1 to 3 the multimask.

    State-dict keys are those of segment-anything's `mask_decoder`, without the prefix.
    """

    def __init__(self, dim: int = 256, num_multimask_outputs: int = 3) -> None:
        super().__init__()
        self.num_mask_tokens = num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(dim=dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.output_upscaling = Upscaling(dim)
        self.output_hypernetworks_mlps = nn.ModuleList(
            ReluMlp((dim, dim, dim, dim // 8)) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = ReluMlp((dim, dim, dim, self.num_mask_tokens))

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for B prompts on one image.

        `image_embeddings`, 1xCxGxG, and `image_pe`, 1xLxC with L = G * G, are broadcast over the
        prompts; `sparse`, BxNxC, and `dense`, BxLxC, come from the prompt encoder. Returns
        iou_predictions, Bx4, and low_res_masks, Bx4x4Gx4G logits.

        With `padding`, 1xPxC, the embeddings are hxw of them, the P others of L are the padding's,
        and masks have 4hx4w.
        """
        token, masks = self.decode(image_embeddings, image_pe, sparse, dense, padding)
        return self.iou_prediction_head(token), masks

    @property
    def leading(self) -> Tensor:
        """The token of the IoU, 1xC."""
        return self.iou_token.weight

    def outputs(self, leading: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Return iou_predictions, Bx4, and the masks."""
        return self.iou_prediction_head(leading), masks


class PromptedDecoder(nn.Module):
    """A prompt encoder in front of a mask decoder.

    Make it after the prompt encoder's weights are loaded: the position encoding of the image grid
    is computed once, in the constructor. An exported graph computes it from the frequencies, which
    backends do when they load the graph: as a constant it would be a fifth of the stored weights.

    `padding`: the embeddings, 1xPxC, of the square's cells that the prompt encoder's `crop` cut
    off, as `embed_padding` computes them.
    """

    image_pe: Tensor
    padding: Tensor | None
    mask_decoder: TokenDecoder

    def __init__(self, prompt_encoder: PromptEncoder, padding: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("padding", padding, persistent=False)
        self.prompt_encoder = prompt_encoder
        with torch.no_grad():
            image_pe = prompt_encoder.dense_positions()
        self.register_buffer("image_pe", image_pe, persistent=False)

    def positions(self) -> Tensor:
        """Return the position encoding of the image grid's cells, 1xLxC, row by row."""
        exporting = torch.compiler.is_exporting()
        return self.prompt_encoder.dense_positions() if exporting else self.image_pe

    def embed_without_masks(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed B prompts of which none has a mask, as the prompt encoder does: sparse and dense.

        It skips the convolutions over masks.
        """
        sparse = self.prompt_encoder.embed_points(coords, labels)
        return sparse, self.prompt_encoder.embed_no_masks(len(coords))


class PromptedMaskDecoder(PromptedDecoder):
    """Prompt encoder and mask decoder in one graph, as it is exported."""

    def __init__(
        self,
        prompt_encoder: PromptEncoder,
        mask_decoder: SamMaskDecoder,
        padding: Tensor | None = None,
    ) -> None:
        super().__init__(prompt_encoder, padding)
        self.mask_decoder: SamMaskDecoder = mask_decoder

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Segment one image, `image_embeddings` 1x256xGxG, by B prompts of N points each.

        `point_coords` is BxNx2 float, (x, y) in pixels of the resized input frame; `point_labels`
        BxN float: 1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding. Without a
        box, SAM expects one padding point at the end. `mask_input` is Bx1x4Gx4G logits and
        `has_mask_input` B, 0 or 1. Returns iou_predictions, Bx4, and low_res_masks, Bx4x4Gx4G
        logits: 0 is the single mask, 1 to 3 the multimask ones.
        """
        sparse, dense = self.prompt_encoder(point_coords, point_labels, mask_input, has_mask_input)
        iou, masks = self.mask_decoder(
            image_embeddings, self.positions(), sparse, dense, self.padding
        )
        return iou, masks

    def without_masks(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the results of `forward` for prompts without masks."""
        sparse, dense = self.embed_without_masks(point_coords, point_labels)
        iou, masks = self.mask_decoder(image_embeddings, self.image_pe, sparse, dense, self.padding)
        return iou, masks


class ImageKeys(nn.Module):
    """What the decoder makes of an image before it sees a prompt without a mask.

    The graph runs once for an image, in front of `PointDecoder`.
    """

    def __init__(self, decoder: PromptedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return an image's tokens, 1xLxC, and its keys, values and queries, 1xHxDxL each.

        `image_embeddings` is 1xCxhxw; L are the cells of the square, the padding's last. See
        `samclip.export.models.two_way_transformer.ImageSide`.
        """
        decoder = self.decoder
        no_mask = decoder.prompt_encoder.no_mask_embed.weight
        tokens = seen_tokens(image_embeddings, decoder.padding) + no_mask
        side = decoder.mask_decoder.transformer.image_side(tokens, decoder.positions())
        return tokens, *side


class PointDecoder(nn.Module):
    """The decoder for prompts without masks, behind `ImageKeys`: exact, for less work."""

    def __init__(self, decoder: PromptedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        image_tokens: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        image_queries: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what the decoder's `without_masks` does; the first four come from `ImageKeys`."""
        decoder = self.decoder
        token, masks = decoder.mask_decoder.decode_shared(
            image_tokens,
            ImageSide(image_keys, image_values, image_queries),
            decoder.positions(),
            decoder.prompt_encoder.embed_points(point_coords, point_labels),
            decoder.prompt_encoder.cells,
        )
        return decoder.mask_decoder.outputs(token, masks)


def seen_tokens(image_embeddings: Tensor, padding: Tensor | None) -> Tensor:
    """Return the tokens of an image's embeddings, 1xCxhxw, and of its padding, 1xPxC: 1xLxC."""
    cells = image_embeddings.flatten(2).mT  # 1x(hw)xC
    return cells if padding is None else torch.cat([cells, padding], dim=1)


class Upscaling(nn.Sequential):
    """Upscaling of the image tokens of a GxG grid, four times a side.

    segment-anything's `MaskDecoder.output_upscaling`, state-dict keys included. Its transposed
    convolutions have kernels as wide as their stride, so each token maps to 2x2 pixels of the next
    map, and each of these to 2x2 more: both are matrix products, and no map is transposed for the
    norm.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Upscale tokens, BxLxC, to pixels, Bx(16L)x(C/8).

        Their order: token, row and column in the first 2x2, row and column in the second;
        `in_rows` puts masks of them into rows.
        """
        return self.apply_to(tokens, self.matrices())

    def matrices(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return both convolutions as products: (2*2*D)xC for CxDx2x2, and their biases."""
        convolutions = (layer for layer in self if isinstance(layer, nn.ConvTranspose2d))
        return [
            (each.weight.permute(2, 3, 1, 0).flatten(0, 2), _repeated(each.bias))
            for each in convolutions
        ]

    def apply_to(self, tokens: Tensor, matrices: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Upscale tokens as `forward` does, with its `matrices`, made once for several calls."""
        x, products = tokens.flatten(0, 1), iter(matrices)
        for layer in self:
            if isinstance(layer, nn.ConvTranspose2d):  # MxC -> (4M)xD
                x = F.linear(x, *next(products)).reshape(-1, layer.out_channels)
            else:
                x = layer.last(x) if isinstance(layer, LayerNorm2d) else layer(x)
        return x.reshape(tokens.shape[0], -1, x.shape[-1])


def _repeated(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.repeat(4)


def in_rows(masks: Tensor, rows: int, columns: int) -> Tensor:
    """Put masks, BxMx(16*h*w) in the order of `Upscaling`, into rows of pixels: BxMx4hx4w."""
    cells = masks.reshape(-1, rows, columns, 2, 2, 2, 2)  # y, x, y2, x2, y1, x1
    pixels = cells.permute(0, 1, 3, 5, 2, 4, 6)  # y, y2, y1, x, x2, x1
    return pixels.reshape(-1, masks.shape[1], 4 * rows, 4 * columns)


class ReluMlp(nn.Module):
    """Linear layers between the given `widths`, with ReLU in between; keys `layers.<i>`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of `x` from the first width to the last."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x) if index == last else F.relu(layer(x))
        return x
