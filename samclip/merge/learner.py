"""What a model in training can do, whichever it is; `Student` and `OvsamStudent` do it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from samclip.merge.pixels import PixelBatch
from samclip.merge.prompts import Prompts
from samclip.merge.teachers.base import MaskAnswer


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
