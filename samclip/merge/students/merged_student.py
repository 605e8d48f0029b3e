"""The model in training: pictures in, what the losses compare out.

What a model in training can do, whichever it is; `Student` and `OvsamStudent` do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samclip.export.families.merged_assembly import Assembly
from samclip.export.models.block import Block
from samclip.export.models.efficientnet_lite import LiteFeatures
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.export.models.tiny_vit import MBConv, TinyVitBlock
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.sizes import SizedModels
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.training.losses import pool_regions, region_weights

RECOMPUTED = (Block, TinyVitBlock, MBConv)


class Encoded:
    """What one pass of the image encoder gives, computed when it is first asked for.

    A stitched encoder's two results share its backbone alone, so a loss on names costs no masks,
    and one on masks no look at a smaller picture. `image` is Bx3xSxS, normalised.
    """

    def __init__(self, encoder: nn.Module, image: Tensor) -> None:
        self._encoder, self._image = encoder, image
        self._stitched = encoder if isinstance(encoder, StitchedEncoder) else None
        self._maps: LiteFeatures | None = None
        self.size: int = image.shape[-1]  # S, in pixels

    @cached_property
    def features(self) -> Tensor:
        """The maps before the neck, BxCxGxG, that names are made of."""
        if self._stitched is None:
            return self._both[0]
        return self._stitched.last_maps(self._image, self._backbone(self._stitched))

    @cached_property
    def embeddings(self) -> Tensor:
        """The image embeddings, Bx256xS/16xS/16, that masks are made of."""
        if self._stitched is None:
            return self._both[1]
        return self._stitched.embed(self._stitched.stitch(self._backbone(self._stitched)))

    def _backbone(self, encoder: StitchedEncoder) -> LiteFeatures:
        if self._maps is None:
            self._maps = encoder.backbone(self._image)
        return self._maps

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = self._encoder(self._image)
        return both


@dataclass(frozen=True)
class Named:
    """What the CLIP head gives: `image` BxD and `patches` BxDxgxg; `token_mask` Bxgxg."""

    image: Tensor
    patches: Tensor
    token_mask: Tensor

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Average the patches of a picture inside K masks, KxHxW bool over its square: KxD."""
        weights = region_weights(masks, self.token_mask[index])
        return pool_regions(self.patches[index], weights)


class Student:
    """A merged model with the pixel statistics that it wants, at any image size.

    The model stays in eval mode. What its frozen parts compute leaves no graph behind, since
    neither pixels nor frozen weights want a gradient: a head on a frozen encoder costs the
    encoder's inference, and nothing flows back into a frozen backbone.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.model: MergedModel = assembly.model.eval()
        self.mean, self.std = assembly.metadata.mean, assembly.metadata.std
        self._sized = SizedModels(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is made for."""
        return self.model.config.image_size

    def encode(self, batch: PixelBatch) -> Encoded:
        """Encode B pictures of whatever size."""
        model = self._sized.at(batch.size)
        return Encoded(model.image_encoder, batch.normalised(self.mean, self.std))

    def names(self, encoded: Encoded, batch: PixelBatch) -> Named:
        """Embed the pictures and their patches; nothing is normalised."""
        head = self._sized.at(encoded.size).clip_head
        token_mask = batch.token_mask(head.config.tokens)
        image, patches = head(encoded.features, token_mask)
        return Named(image, patches, token_mask)

    def masks(self, encoded: Encoded, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` of the batch by N prompts, in pixels of its square."""
        model = self._sized.at(encoded.size)
        decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
        return answer(decoder, encoded.embeddings[index : index + 1], prompts)

    @contextmanager
    def recomputing(self, size: int, wanted: bool) -> Iterator[None]:
        """Within, `wanted` keeps only the inputs of the encoder's blocks, and computes twice.

        It is the encoder for squares of `size` pixels.
        """
        with recomputing(self._sized.at(size).image_encoder, wanted):
            yield


@contextmanager
def recomputing(encoder: nn.Module, wanted: bool) -> Iterator[None]:
    """Within, `wanted` keeps only the inputs of an encoder's blocks, and computes twice.

    Gradient checkpointing (Chen et al., 2016).
    """
    blocks = [m for m in encoder.modules() if wanted and isinstance(m, RECOMPUTED)]
    for block in blocks:
        block.forward = _recomputed(block)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own comes back


def answer(decoder: PromptedMaskDecoder, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
    """Run a prompted decoder on one picture's embeddings, 1x256xGxG, without a mask prompt."""
    iou, logits = decoder.without_masks(embeddings, prompts.coords, prompts.labels)
    return MaskAnswer(logits, iou)


def _recomputed(block: nn.Module) -> Callable[[Tensor], Tensor]:
    """Wrap a block's own forward so that backward runs it again."""
    forward = block.forward

    def run(x: Tensor) -> Tensor:
        out: Tensor = checkpoint(forward, x, use_reentrant=False)
        return out

    return run


class Names(Protocol):
    """What a model says of B pictures in the text space; nothing is normalised."""

    @property
    def image(self) -> Tensor:
        """Whole pictures: BxD."""
        ...

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Embed K regions of a picture, KxHxW bool over its square: KxD."""
        ...


class Learner(Protocol):
    """A model that is trained; it stays in eval mode.

    What `encode` gives is the model's own affair; all have `embeddings`, SAM's image embeddings.
    """

    @property
    def model(self) -> nn.Module:
        """What the parts to train are parts of."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is made for."""
        ...

    def encode(self, batch: PixelBatch) -> Any:
        """Encode B pictures."""
        ...

    def names(self, encoded: Any, batch: PixelBatch) -> Names:
        """Embed the pictures that were encoded."""
        ...

    def masks(self, encoded: Any, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` of the batch by N prompts, in pixels of its square."""
        ...

    def recomputing(self, size: int, wanted: bool) -> AbstractContextManager[None]:
        """Within, `wanted` keeps only the inputs of the encoder's blocks, and computes twice."""
        ...
