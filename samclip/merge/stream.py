"""Photos to pixels for each step: draws, views and rendering put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samclip.merge.pixels import PixelBatch
from samclip.merge.sampler import Draw, Sampler
from samclip.merge.sources import PhotoSource
from samclip.merge.views import View, ViewOptions, draw_view, render


@dataclass(frozen=True)
class Sample:
    """What a picture of a batch shows: a photo, by its SHA-256, and the view of it."""

    photo: str
    view: View


@dataclass(frozen=True)
class ViewBatch:
    """B samples and their pixels."""

    samples: tuple[Sample, ...]
    pixels: PixelBatch

    def pick(self, indices: Sequence[int]) -> ViewBatch:
        """Take some of the samples, in the order of `indices`."""
        return ViewBatch(tuple(self.samples[i] for i in indices), self.pixels.pick(indices))


class ViewStream:
    """The batches of one stream of one stage; `batch(t)` is a pure function of t."""

    def __init__(self, source: PhotoSource, sampler: Sampler, options: ViewOptions) -> None:
        self.source, self.sampler, self.options = source, sampler, options

    def batch(self, step: int) -> ViewBatch:
        """Render this process's part of the batch of step `step`. Raises ImageError."""
        return self.render(self.sampler.draws(step))

    def render(self, draws: Sequence[Draw]) -> ViewBatch:
        """Render the views of some draws. Raises ImageError."""
        rendered = [self._render(draw) for draw in draws]
        samples = tuple(sample for sample, _, _ in rendered)
        pixels = torch.stack([square for _, square, _ in rendered])
        sizes = torch.tensor([size for _, _, size in rendered])
        return ViewBatch(samples, PixelBatch(pixels, sizes))

    def _render(self, draw: Draw) -> tuple[Sample, Tensor, tuple[int, int]]:
        photo = self.source.photo(draw.index)
        view = draw_view(self.options, (photo.shape[0], photo.shape[1]), draw.view_seed)
        square, size = render(view, photo)
        return Sample(self.source.key(draw.index), view), square, size
