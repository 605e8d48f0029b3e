from __future__ import annotations

import torch

from samclip.merge.teachers.base import MaskAnswer


def test_the_best_of_the_ambiguous_outputs() -> None:
    logits = torch.stack([torch.full((2, 2), float(n) - 1.5) for n in range(4)])[None]
    for best, expected in ((1, False), (2, True), (3, True)):
        iou = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        iou[0, best] = 0.5
        chosen = MaskAnswer(logits, iou).best_masks()
        assert chosen.shape == (1, 2, 2)
        assert bool(chosen.all()) is expected
