"""A mask teacher with fixed answers, for tests of the code that prompts it."""

from __future__ import annotations

import torch
from torch import Tensor

from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import MaskAnswer

SIDE = 64  # of the teacher's square; masks are 16 x 16
EMBEDDINGS = torch.zeros(1, 256, 4, 4)


class FixedMaskTeacher:
    """A mask teacher that answers with given boxes, (x0, y0, x1, y1, IoU) in mask pixels."""

    fingerprint = "fixed"
    image_size = SIDE

    def __init__(self, *boxes: tuple[int, int, int, int, float]) -> None:
        self._boxes = boxes
        self.asked: list[Prompts] = []

    def encode(self, batch: PixelBatch) -> Tensor:
        return EMBEDDINGS.expand(len(batch), -1, -1, -1)

    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        """Put the boxes into outputs 1 to 3, prompt by prompt; output 0 is the whole square."""
        self.asked.append(prompts)
        logits = torch.full((len(prompts), 4, 16, 16), -1.0)
        iou = torch.zeros(len(prompts), 4)
        logits[:, 0], iou[:, 0] = 1.0, 1.0
        for place, (x0, y0, x1, y1, quality) in enumerate(self._boxes):
            logits[place // 3, 1 + place % 3, y0:y1, x0:x1] = 1.0
            iou[place // 3, 1 + place % 3] = quality
        return MaskAnswer(logits, iou)
