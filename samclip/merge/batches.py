"""The pictures of each step of a stage, of all streams, made while the step before is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from samclip.errors import ConfigError
from samclip.merge.sampler import Sampler, Sampling
from samclip.merge.seeds import derive_seed
from samclip.merge.sources import PhotoSource
from samclip.merge.stages import STREAMS, Batch, StreamName, TrainStage
from samclip.merge.stream import ViewBatch, ViewStream
from samclip.runtime.series import made_ahead


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
        return made_ahead(self.at, range(start, end))

    def _size(self, name: StreamName, sizes: tuple[int, ...], step: int) -> int:
        """Draw the size of a step, the same in every process."""
        return sizes[derive_seed("size", self._seed, self._stage.name, name, step) % len(sizes)]


def _pair(processes: Processes) -> tuple[int, int]:
    return processes.rank, processes.world
