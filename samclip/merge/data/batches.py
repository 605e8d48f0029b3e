"""Photos to pixels for each step: draws, views and rendering put together.

The pictures of each step of a stage, of all streams, made while the step before is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samclip.errors import ConfigError
from samclip.merge.config.stages import STREAMS, Batch, StreamName, TrainStage
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.sampler import Draw, Sampler, Sampling
from samclip.merge.data.seeds import derive_seed
from samclip.merge.data.views import View, ViewOptions, draw_view, render
from samclip.runtime.series import prefetch


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


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class StepInput:
    """The pictures of this process in one step; a stream that the stage does not have is absent."""

    step: int
    streams: dict[StreamName, ViewBatch]


class StageInputs:
    """The inputs of a stage, a pure function of the step."""

    def __init__(
        self,
        stage: TrainStage,
        sources: dict[StreamName, PhotoSource],
        seed: int,
        processes: Processes,
    ) -> None:
        self._stage, self._seed = stage, seed
        self._streams: dict[StreamName, dict[int, ViewStream]] = {}
        for name in STREAMS:
            batch: Batch | None = getattr(stage, name)
            if batch is None:
                continue
            if name not in sources:
                raise ConfigError(f"stage {stage.name!r} needs photos: [data.{name}] folders")
            sampling = Sampling(
                seed, stage.name, name, batch.batch, batch.views or None, *_pair(processes)
            )
            sampler = Sampler(sources[name], sampling)
            self._streams[name] = {
                size: ViewStream(sources[name], sampler, batch.view.at(size))
                for size in batch.sizes
            }

    def at(self, step: int) -> StepInput:
        """Render the pictures of a step. Raises ImageError."""
        return StepInput(
            step,
            {
                name: by_size[self._size(name, tuple(by_size), step)].batch(step)
                for name, by_size in self._streams.items()
            },
        )

    def between(self, start: int, end: int) -> Iterator[StepInput]:
        """Yield the inputs of the steps from `start` to before `end`, one made ahead."""
        return prefetch(self.at, range(start, end))

    def _size(self, name: StreamName, sizes: tuple[int, ...], step: int) -> int:
        """Draw the size of a step, the same in every process."""
        return sizes[derive_seed("size", self._seed, self._stage.name, name, step) % len(sizes)]


def _pair(processes: Processes) -> tuple[int, int]:
    return processes.rank, processes.world
