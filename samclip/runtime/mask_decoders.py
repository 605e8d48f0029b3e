"""A bundle's mask decoder, by what its graph gives: four masks and their IoUs, or one mask."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor
from samclip.runtime.engine_pool import EnginePool, Feeds
from samclip.runtime.images.letterbox import Letterbox
from samclip.runtime.tasks.mask_ops import foreground_confidence
from samclip.runtime.tasks.prompt_batches import PromptBatch

GRAPH = "mask_decoder"
MASKS, IOUS = "low_res_masks", "iou_predictions"

Decoded = tuple[NDArray[np.float32], NDArray[np.float32]]


class MaskDecoder(Protocol):
    """Turns prompts into M masks each."""

    @property
    def has_multimask(self) -> bool:
        """Whether masks 1 to 3 are answers to ambiguous prompts; else M is 1."""
        ...

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:
        """Answer B prompts on one image's embedding, 1x256xGxG: scores BxM, logits BxMxhxw.

        Mask 0 is the answer to an unambiguous prompt. Raises ClosedError, EngineRunError.
        """
        ...


class SamDecoder:
    """SAM's: a single mask, then three for ambiguous prompts; the scores are predicted IoUs."""

    has_multimask = True

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:  # noqa: ARG002
        """Answer B prompts: scores Bx4, logits Bx4xhxw."""
        iou, logits = self._pool.compute(GRAPH, _feeds(embeddings, batch), (IOUS, MASKS))
        return iou, logits


class OneMaskDecoder:
    """Open-Vocabulary SAM's: one mask, and nothing that predicts an IoU.

    The scores are `foreground_confidence`, of the part of the input that the image fills.
    """

    has_multimask = False

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:
        """Answer B prompts: scores Bx1, logits Bx1xhxw."""
        (logits,) = self._pool.compute(GRAPH, _feeds(embeddings, batch), (MASKS,))
        inside = letterbox.token_mask(logits.shape[-1])[0] > 0  # hxw
        return foreground_confidence(logits, inside), logits


def choose_decoder(pool: EnginePool) -> MaskDecoder:
    """Take the decoder that the manifest describes."""
    described = pool.bundle.manifest.graphs.mask_decoder
    outputs = {spec.name for spec in described.outputs}
    return OneMaskDecoder(pool) if outputs == {MASKS} else SamDecoder(pool)


def _feeds(embeddings: Tensor, batch: PromptBatch) -> Feeds:
    return {"image_embeddings": embeddings, **batch.feeds()}
