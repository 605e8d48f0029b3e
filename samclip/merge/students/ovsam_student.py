"""Open-Vocabulary SAM in training: pictures in, what the losses compare out."""

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
from samclip.merge.data.instances import STRIDE
from samclip.merge.data.mask_prompts import Prompts, boxes_from_masks
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import recomputing
from samclip.merge.teachers.base import MaskAnswer


class OvsamEncoded:
    """What one pass of the backbone gives, and what follows from it when it is first asked for.

    A loss on masks makes no pyramid and one on names no neck. `image` is Bx3xSxS, normalised.
    """

    def __init__(self, model: Ovsam, image: Tensor) -> None:
        self._model = model
        self.levels: Levels = model.backbone(image)
        self.size: int = image.shape[-1]  # S, in pixels

    @cached_property
    def embeddings(self) -> Tensor:
        """The image embeddings, Bx256xS/16xS/16, that masks are made of."""
        out: Tensor = self._model.neck(self.levels)
        return out

    @cached_property
    def pyramid(self) -> Levels:
        """The levels that regions are named from."""
        out: Levels = self._model.fpn(self.levels)
        return out

    def region_embeds(self, index: int, boxes: Tensor) -> Tensor:
        """Embed boxes of picture `index`, Nx4 in pixels, by the trained head: NxD."""
        own = Levels(*(level[index : index + 1] for level in self.pyramid))
        return self._model.roi_classifier.embed(own, boxes)

    def clip_embeds(self, index: int, box: Tensor) -> Tensor:
        """Embed a box of picture `index`, 1x4 in pixels, as CLIP pools it: 1xD."""
        c5, pool = self.levels.stride32[index : index + 1], self._model.clip_roi
        if isinstance(pool, ClipRoi):
            return pool.embed(c5, box)
        x0, y0, x1, y1 = (round(edge / STRIDE) for edge in box[0].tolist())
        mask = torch.full((1, 1, self.size // STRIDE, self.size // STRIDE), -1.0).to(c5)
        mask[..., y0:y1, x0:x1] = 1.0
        return pool.embed(c5, mask)


@dataclass(frozen=True)
class OvsamNames:
    """The names of B pictures; `image` BxD is what CLIP says of each as a whole."""

    image: Tensor
    encoded: OvsamEncoded

    def regions(self, index: int, masks: Tensor) -> Tensor:
        """Embed the boxes of K masks, KxHxW bool over the square, by the trained head: KxD."""
        boxes = boxes_from_masks(masks, self.encoded.size / masks.shape[-1])
        return self.encoded.region_embeds(index, boxes)


class OvsamStudent:
    """A model with the pixel statistics that it wants, at its own image size.

    It stays in eval mode. As neither pixels nor frozen weights want a gradient, nothing flows back
    into a frozen backbone, and what it computes leaves no graph behind. A stage on the names'
    stream alone, which needs no neck, may show pictures of any size that is a multiple of 32.
    """

    def __init__(self, assembly: OvsamAssembly) -> None:
        self.model: Ovsam = assembly.model.eval()
        self.mean, self.std = assembly.metadata.mean, assembly.metadata.std
        self._decoder = PromptedLabelDecoder(self.model.prompt_encoder, self.model.mask_decoder)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """The side in pixels of the squares that the model is made for."""
        return self.model.config.image_size

    def encode(self, batch: PixelBatch) -> OvsamEncoded:
        """Encode B pictures."""
        return OvsamEncoded(self.model, batch.normalised(self.mean, self.std))

    def names(self, encoded: OvsamEncoded, batch: PixelBatch) -> OvsamNames:
        """Embed the pictures, each without its padding; nothing is normalised."""
        corners = torch.cat([torch.zeros_like(batch.sizes), batch.sizes.flip(1)], dim=1)  # Bx4
        boxes = corners.to(encoded.levels.stride32)
        each = [encoded.clip_embeds(i, boxes[i : i + 1]) for i in range(len(batch))]
        return OvsamNames(torch.cat(each), encoded)

    def masks(self, encoded: OvsamEncoded, index: int, prompts: Prompts) -> MaskAnswer:
        """Segment picture `index` by N prompts, in pixels of its square: one mask for each.

        There is no predicted IoU; it is given as 0. Raises ConfigError at another size than the
        model's own.
        """
        if encoded.size != self.image_size:
            raise ConfigError(
                f"masks of pictures of {encoded.size} px were asked of an Open-Vocabulary SAM for "
                f"{self.image_size} px; train it at its own size"
            )
        logits = self._decoder.without_masks(
            encoded.embeddings[index : index + 1], prompts.coords, prompts.labels
        )
        return MaskAnswer(logits, logits.new_zeros(logits.shape[:2]))

    @contextmanager
    def recomputing(self, size: int, wanted: bool) -> Iterator[None]:
        """Within, `wanted` keeps only the inputs of the neck's blocks, and computes twice."""
        del size  # there is one neck, for one size
        with recomputing(self.model.neck, wanted):
            yield
