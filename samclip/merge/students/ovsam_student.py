"""Open-Vocabulary SAM in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from samclip.errors import ConfigError
from samclip.export.families.ovsam_assembly import OvsamAssembly
from samclip.export.models.ovsam.clip_regions import ClipRoi
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import Ovsam
from samclip.export.models.ovsam.roi_classifier import Levels
from samclip.merge.data.mask_prompts import MASK_STRIDE, Prompts, boxes_from_masks
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.base import recompute_blocks
from samclip.merge.teachers.base import MaskAnswer


class OvsamEncoded:
    """The results of one pass of the backbone; what follows is computed when it is first needed.

    A loss on masks does not compute the pyramid, and one on names does not compute the neck.
    `image` is Bx3xSxS, normalised.
    """

    def __init__(self, model: Ovsam, image: Tensor) -> None:
        self._model = model
        self.levels: Levels = model.backbone(image)
        self.size: int = image.shape[-1]  # S, in pixels

    @cached_property
    def embeddings(self) -> Tensor:
        """The image embeddings, Bx256xS/16xS/16, the input of the mask decoder."""
        out: Tensor = self._model.neck(self.levels)
        return out

    @cached_property
    def pyramid(self) -> Levels:
        """The levels from which regions are classified."""
        out: Levels = self._model.fpn(self.levels)
        return out

    def region_embeds(self, index: int, boxes: Tensor) -> Tensor:
        """Embed boxes of picture `index`, Nx4 in pixels, by the trained head: NxD."""
        own = Levels(*(level[index : index + 1] for level in self.pyramid))
        return self._model.roi_classifier.embed(own, boxes)

    def clip_embeds(self, index: int, box: Tensor) -> Tensor:
        """Embed a box of picture `index`, 1x4 in pixels, as CLIP pools it: 1xD."""
        c5 = self.levels.stride32[index : index + 1]
        pool = self._model.clip_roi
        if isinstance(pool, ClipRoi):
            return pool.embed(c5, box)
        x0, y0, x1, y1 = (round(edge / MASK_STRIDE) for edge in box[0].tolist())
        side = self.size // MASK_STRIDE
        mask = torch.full((1, 1, side, side), -1.0).to(c5)
        mask[..., y0:y1, x0:x1] = 1.0
        return pool.embed(c5, mask)


@dataclass(frozen=True)
class OvsamNames:
    """The embeddings of B pictures in the text space; `image` BxD are CLIP's of each as a whole."""

    image: Tensor
    encoded: OvsamEncoded

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Embed the boxes of K masks, KxHxW bool over the square, by the trained head: KxD."""
        boxes = boxes_from_masks(masks, self.encoded.size / masks.shape[-1])
        return self.encoded.region_embeds(index, boxes)


class OvsamStudent:
    """An Open-Vocabulary SAM with its pixel statistics, at its own image size.

    The model stays in eval mode. Its frozen parts leave no autograd graph, because neither pixels
    nor frozen weights require a gradient. A stage on only the names' stream, which does not need
    the neck, may use any size that is a multiple of 32.
    """

    def __init__(self, assembly: OvsamAssembly) -> None:
        self.model: Ovsam = assembly.model.eval()
        self.mean = assembly.metadata.mean
        self.std = assembly.metadata.std
        self._decoder = PromptedLabelDecoder(self.model.prompt_encoder, self.model.mask_decoder)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is built for."""
        return self.model.config.image_size

    def encode(self, batch: PixelBatch) -> OvsamEncoded:
        """Encode B pictures."""
        return OvsamEncoded(self.model, batch.normalised(self.mean, self.std))

    def names(self, encoded: OvsamEncoded, batch: PixelBatch) -> OvsamNames:
        """Embed the pictures, without their padding, in the text space; not normalised."""
        corners = torch.cat([torch.zeros_like(batch.sizes), batch.sizes.flip(1)], dim=1)  # Bx4
        boxes = corners.to(encoded.levels.stride32)
        each = [encoded.clip_embeds(i, boxes[i : i + 1]) for i in range(len(batch))]
        return OvsamNames(torch.cat(each), encoded)

    def masks(self, encoded: OvsamEncoded, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` by N prompts, in pixels of its square: one mask for each.

        The model does not predict the IoU, so it is 0. Raises ConfigError at a size other than the
        model's own.
        """
        if encoded.size != self.image_size:
            raise ConfigError(
                f"masks of pictures of {encoded.size} px were requested of an Open-Vocabulary SAM "
                f"for {self.image_size} px; train it at its own size"
            )
        logits = self._decoder.without_masks(
            encoded.embeddings[index : index + 1], prompts.coords, prompts.labels
        )
        return MaskAnswer(logits, logits.new_zeros(logits.shape[:2]))

    @contextmanager
    def recomputing(self, size: int, wanted: bool) -> Iterator[None]:
        """Within the block, recompute the neck's activations in the backward pass if `wanted`."""
        del size  # there is one neck, for one size
        with recompute_blocks(self.model.neck, wanted):
            yield
