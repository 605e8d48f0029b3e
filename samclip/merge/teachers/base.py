"""The protocols of teachers: frozen models, whose fingerprints name their outputs in caches.

Every method runs without gradient and leaves its results on the device of its input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor

from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch

MULTIMASK = (1, 2, 3)  # the outputs for ambiguous prompts; output 0 is the single mask


def fingerprint_of(*parts: object) -> str:
    """Hash everything that a teacher's outputs depend on: kind, weights' digests, options."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


class NameTeacher(Protocol):
    """A model that embeds pictures in a text space of `embed_dim` dimensions.

    `fingerprint` changes with everything that an embedding depends on: weights, options, recipe.
    """

    @property
    def fingerprint(self) -> str:
        """A digest of weights and options, lowercase hexadecimal."""
        ...

    @property
    def embed_dim(self) -> int:
        """D, the dimension of the text space."""
        ...

    def embed(self, batch: PixelBatch) -> Tensor:
        """Embed B pictures: BxD float32, of unit length."""
        ...


@runtime_checkable
class ClassTeacher(NameTeacher, Protocol):
    """A name teacher that embeds pictures by the C classes of a classifier, as ConSE does."""

    def class_logits(self, batch: PixelBatch) -> Tensor:
        """Classify B pictures: BxC float32 logits, before any temperature."""
        ...

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, BxC, to probabilities at the teacher's temperature: BxC."""
        ...

    def embed_classes(self, probabilities: Tensor) -> Tensor:
        """Embed BxC probabilities, rows of sum 1: BxD float32, of unit length."""
        ...


@dataclass(frozen=True)
class MaskAnswer:
    """Four masks for each of N prompts, and their predicted IoU; one of models that have one.

    `logits`: Nx4x4Gx4G float32 over the whole square, 0 the single mask and 1 to 3 the multimask
    ones; `iou`: Nx4 float32.
    """

    logits: Tensor
    iou: Tensor

    def best_masks(self) -> Tensor:
        """Return each prompt's multimask output of the highest predicted IoU: NxHxW bool.

        With a single output, that output is returned.
        """
        if self.logits.shape[1] == 1:
            only: Tensor = self.logits[:, 0] > 0
            return only
        best = self.iou[:, list(MULTIMASK)].argmax(dim=1) + MULTIMASK[0]
        chosen: Tensor = self.logits[torch.arange(len(best), device=best.device), best] > 0
        return chosen


class MaskTeacher(Protocol):
    """A SAM for squares of `image_size` pixels, G = image_size / 16."""

    @property
    def fingerprint(self) -> str:
        """A digest of weights and image size, lowercase hexadecimal."""
        ...

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the squares that it takes."""
        ...

    def encode(self, batch: PixelBatch) -> Tensor:
        """Encode B pictures: Bx256xGxG float32, SAM's image embeddings.

        Squares of another size are scaled to S first.
        """
        ...

    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        """Segment ONE picture, whose embeddings are 1x256xGxG, by N prompts.

        The prompts' coordinates are in pixels of the square of S.
        """
        ...
