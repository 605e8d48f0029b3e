"""Teachers that count what they are shown, and batches of noise to show them."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_run import ColourNames, ModelMasks
from torch import Tensor, nn

from samclip.merge.data.batches import PhotoView, ViewBatch
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.views import View
from samclip.merge.teachers.cached_teachers import Teachers


class CountedNames(ColourNames):
    """Counts the pictures that it names."""

    shown = 0

    def embed(self, batch: PixelBatch) -> Tensor:
        CountedNames.shown += len(batch)
        return super().embed(batch)


class CountedMasks(ModelMasks):
    """Counts the pictures that it encodes, and the teachers that are made."""

    made = shown = 0

    def __init__(self, size: int) -> None:
        CountedMasks.made += 1
        super().__init__(size)

    def encode(self, batch: PixelBatch) -> Tensor:
        CountedMasks.shown += len(batch)
        return super().encode(batch)


def counted_teachers(cache: Path) -> Teachers:
    """Teachers whose counts start at 0."""
    CountedNames.shown = CountedMasks.made = CountedMasks.shown = 0
    return Teachers(CountedNames(), CountedMasks, nn.Identity, cache, torch.device("cpu"))


def noise_batch(*photos: str, size: int = 64) -> ViewBatch:
    """Pictures of noise, the same for the same one-letter photo."""
    pixels = [
        torch.rand(3, size, size, generator=torch.Generator().manual_seed(ord(p))) for p in photos
    ]
    samples = tuple(PhotoView(photo, View((64, 64), (0, 0, 64, 64), size)) for photo in photos)
    return ViewBatch(samples, PixelBatch.of([p * 255 for p in pixels]))
