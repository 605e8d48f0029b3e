"""The batches of a stage: for each step, the views of each stream, rendered to pixels.

Every batch is a pure function of the step; it is rendered while the step before is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samclip.errors import ConfigError
from samclip.merge.config.stages import STREAMS, Batch, StreamName, TrainStage, ViewConfig
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.sampler import Draw, Sampler, Sampling
from samclip.merge.data.seeds import derive_seed
from samclip.merge.data.views import View, draw_view, render
from samclip.runtime.series import prefetch


@dataclass(frozen=True)
class PhotoView:
    """The source of one picture of a batch: a photo, by its SHA-256, and the view of it."""

    photo: str
    view: View


@dataclass(frozen=True)
class ViewBatch:
    """B pictures: the views that they show, and their pixels."""

    samples: tuple[PhotoView, ...]
    pixels: PixelBatch

    def pick(self, indices: Sequence[int]) -> ViewBatch:
        """Return some of the pictures, in the order of `indices`."""
        return ViewBatch(tuple(self.samples[i] for i in indices), self.pixels.pick(indices))


class ViewStream:
    """The batches of one stream of one stage, in squares of `size` pixels."""

    def __init__(
        self, source: PhotoSource, sampler: Sampler, config: ViewConfig, size: int
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.config = config
        self.size = size

    def batch(self, step: int) -> ViewBatch:
        """Render this process's part of the batch of step `step`. Raises ImageError."""
        return self.render(self.sampler.draws(step))

    def render(self, draws: Sequence[Draw]) -> ViewBatch:
        """Render the views of some draws. Raises ImageError."""
        samples: list[PhotoView] = []
        squares: list[Tensor] = []
        sizes: list[tuple[int, int]] = []
        for draw in draws:
            photo = self.source.photo(draw.index)
            photo_size = (photo.shape[0], photo.shape[1])
            view = draw_view(self.config, self.size, photo_size, draw.view_seed)
            square, size = render(view, photo)
            samples.append(PhotoView(self.source.key(draw.index), view))
            squares.append(square)
            sizes.append(size)
        return ViewBatch(tuple(samples), PixelBatch(torch.stack(squares), torch.tensor(sizes)))


@dataclass(frozen=True)
class Processes:
    """The place of this process, `rank`, among the `world` processes of the run."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class StepInput:
    """The pictures of this process in one step; streams that the stage lacks are absent."""

    step: int
    streams: Mapping[StreamName, ViewBatch]


class StageInputs:
    """The inputs of every step of a stage.

    Raises ConfigError when `sources` lacks a stream of the stage.
    """

    def __init__(
        self,
        stage: TrainStage,
        sources: Mapping[StreamName, PhotoSource],
        seed: int,
        processes: Processes,
    ) -> None:
        self._stage = stage
        self._seed = seed
        self._streams: dict[StreamName, dict[int, ViewStream]] = {}
        for name in STREAMS:
            batch: Batch | None = getattr(stage, name)
            if batch is None:
                continue
            if name not in sources:
                raise ConfigError(f"stage {stage.name!r} needs photos: [data.{name}] folders")
            sampling = Sampling(
                seed=seed,
                stage=stage.name,
                stream=name,
                batch=batch.batch,
                fixed_views=batch.views or None,
                rank=processes.rank,
                world=processes.world,
            )
            sampler = Sampler(sources[name], sampling)
            self._streams[name] = {
                size: ViewStream(sources[name], sampler, batch.view, size) for size in batch.sizes
            }

    def at(self, step: int) -> StepInput:
        """Render the pictures of a step. Raises ImageError."""
        batches: dict[StreamName, ViewBatch] = {}
        for name, by_size in self._streams.items():
            sizes = tuple(by_size)
            # Every process draws the same size.
            drawn = derive_seed("size", self._seed, self._stage.name, name, step)
            batches[name] = by_size[sizes[drawn % len(sizes)]].batch(step)
        return StepInput(step, batches)

    def between(self, start: int, end: int) -> Iterator[StepInput]:
        """Yield the inputs of the steps from `start` to before `end`, rendered one step ahead."""
        return prefetch(self.at, range(start, end))
