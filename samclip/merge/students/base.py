"""The protocol of models in training, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samclip.export.models.block import SamVitBlock
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.tiny_vit import MBConv, TinyVitBlock
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import MaskAnswer

RECOMPUTED = (SamVitBlock, TinyVitBlock, MBConv)


class Names(Protocol):
    """The embeddings of B pictures in the text space, not normalised."""

    @property
    def image(self) -> Tensor:
        """Whole pictures: BxD."""
        ...

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Embed K regions of a picture, KxHxW bool over its square: KxD."""
        ...


class Learner(Protocol):
    """A model in training; it stays in eval mode.

    The type that `encode` returns is the model's own; each has `embeddings`, SAM's image
    embeddings.
    """

    @property
    def model(self) -> nn.Module:
        """The module that holds the parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        ...

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is built for."""
        ...

    def encode(self, batch: PixelBatch) -> Any:
        """Encode B pictures."""
        ...

    def names(self, encoded: Any, batch: PixelBatch) -> Names:
        """Embed the encoded pictures in the text space."""
        ...

    def masks(self, encoded: Any, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` of the batch by N prompts, in pixels of its square."""
        ...

    def recomputing(self, size: int, wanted: bool) -> AbstractContextManager[None]:
        """Within the block, recompute the encoder's activations in the backward pass if `wanted`.

        It concerns the encoder for squares of `size` pixels.
        """
        ...


def run_decoder(decoder: PromptedMaskDecoder, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
    """Run a prompted decoder on one picture's embeddings, 1x256xGxG, without a mask prompt."""
    iou, logits = decoder.without_masks(embeddings, prompts.coords, prompts.labels)
    return MaskAnswer(logits, iou)


@contextmanager
def recompute_blocks(encoder: nn.Module, wanted: bool) -> Iterator[None]:
    """Within the block, keep only the inputs of the encoder's blocks if `wanted`.

    The backward pass computes their activations again: gradient checkpointing (Chen et al., 2016).
    """
    blocks = [m for m in encoder.modules() if wanted and isinstance(m, RECOMPUTED)]
    for block in blocks:
        block.forward = _checkpointed(block.forward)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # uncovers the method of the class


def _checkpointed(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        out: Tensor = checkpoint(forward, x, use_reentrant=False)
        return out

    return run
