"""The merged model, SAM with a CLIP head, in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.families.merged_assembly import Assembly
from samclip.export.models.efficientnet_lite import LiteFeatures
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.base import recompute_blocks, run_decoder
from samclip.merge.students.sizes import SizedModels
from samclip.merge.teachers.base import MaskAnswer


class MergedEncoded:
    """The results of one pass of the image encoder, each computed when it is first needed.

    The two results of a stitched encoder share only its backbone, so a loss on names does not
    compute masks, and a loss on masks does not encode the smaller pictures. `image` is Bx3xSxS,
    normalised.
    """

    def __init__(self, encoder: nn.Module, image: Tensor) -> None:
        self._encoder = encoder
        self._image = image
        self._stitched = encoder if isinstance(encoder, StitchedEncoder) else None
        self._maps: LiteFeatures | None = None
        self.size: int = image.shape[-1]  # S, in pixels

    @cached_property
    def features(self) -> Tensor:
        """The maps before the neck, BxCxGxG, the input of the CLIP head."""
        if self._stitched is None:
            return self._both[0]
        return self._stitched.last_maps(self._image, self._backbone_maps(self._stitched))

    @cached_property
    def embeddings(self) -> Tensor:
        """The image embeddings, Bx256xS/16xS/16, the input of the mask decoder."""
        if self._stitched is None:
            return self._both[1]
        return self._stitched.embed(self._stitched.stitch(self._backbone_maps(self._stitched)))

    def _backbone_maps(self, encoder: StitchedEncoder) -> LiteFeatures:
        if self._maps is None:
            self._maps = encoder.backbone(self._image)
        return self._maps

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = self._encoder(self._image)
        return both


@dataclass(frozen=True)
class MergedNames:
    """The outputs of the CLIP head: `image` BxD and `patches` BxDxgxg; `token_mask` Bxgxg."""

    image: Tensor
    patches: Tensor
    token_mask: Tensor

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Average the patches of a picture inside K masks, KxHxW bool over its square: KxD."""
        weights = region_weights(masks, self.token_mask[index])
        return pool_regions(self.patches[index], weights)


class MergedStudent:
    """A merged model with its pixel statistics, at any image size.

    The model stays in eval mode. Its frozen parts leave no autograd graph, because neither pixels
    nor frozen weights require a gradient: training a head on a frozen encoder costs the encoder's
    inference, and nothing flows back into a frozen backbone.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.model: MergedModel = assembly.model.eval()
        self.mean = assembly.metadata.mean
        self.std = assembly.metadata.std
        self._sized = SizedModels(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is built for."""
        return self.model.config.image_size

    def encode(self, batch: PixelBatch) -> MergedEncoded:
        """Encode B pictures in squares of any size."""
        model = self._sized.at(batch.size)
        return MergedEncoded(model.image_encoder, batch.normalised(self.mean, self.std))

    def names(self, encoded: MergedEncoded, batch: PixelBatch) -> MergedNames:
        """Embed the pictures and their patches in the text space, without normalisation."""
        head = self._sized.at(encoded.size).clip_head
        token_mask = batch.token_mask(head.config.tokens)
        image, patches = head(encoded.features, token_mask)
        return MergedNames(image, patches, token_mask)

    def masks(self, encoded: MergedEncoded, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` of the batch by N prompts, in pixels of its square."""
        model = self._sized.at(encoded.size)
        decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
        return run_decoder(decoder, encoded.embeddings[index : index + 1], prompts)

    @contextmanager
    def recomputing(self, size: int, wanted: bool) -> Iterator[None]:
        """Within the block, recompute the encoder's activations in the backward pass if `wanted`.

        It concerns the encoder for squares of `size` pixels.
        """
        with recompute_blocks(self._sized.at(size).image_encoder, wanted):
            yield


def region_weights(masks: Tensor, token_mask: Tensor) -> Tensor:
    """Turn masks, KxHxW bool over the whole input, into weights of tokens, gxg: Kxgxg.

    A token's weight is the area of the mask inside it, as in `samclip.runtime.tasks.token_naming`.
    The weights of a mask add up to 1; a mask outside the image gets zeros. `token_mask` is gxg, 0
    on padding; g divides H.
    """
    tokens = len(token_mask)
    shares = F.avg_pool2d(masks.float().unsqueeze(1), masks.shape[-1] // tokens).squeeze(1)  # Kxgxg
    shares = shares * token_mask
    total = shares.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, shares / total.clamp(min=1e-12), torch.zeros_like(shares))


def pool_regions(patch_embeds: Tensor, weights: Tensor) -> Tensor:
    """Average the unit embeddings of patches, Dxgxg, by Kxgxg `weights`: KxD."""
    unit = F.normalize(patch_embeds.float(), dim=0)
    return weights.flatten(1) @ unit.flatten(1).T  # Kxgg @ ggxD
