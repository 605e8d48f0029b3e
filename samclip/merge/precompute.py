"""Teachers asked beforehand: everything that the stages of a run will want of their fixed views.

What is kept already is not asked again, so the work may be stopped and begun anew at any time, and
divided among processes that share the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samclip.merge.config.stages import STREAMS, Batch, Stage, StreamName, TrainStage
from samclip.merge.data.batches import Processes, ViewBatch, ViewStream
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.sampler import Draw, Sampler, Sampling
from samclip.merge.training.targets import Teachers
from samclip.runtime.series import prefetch

VIEWS_AT_ONCE = 4

Report = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """One stream of a stage at one size, its photos with `views` views each, and who is asked."""

    title: str
    stream: ViewStream
    views: int
    ask: Callable[[ViewBatch], None]

    @property
    def photos(self) -> int:
        """Count the photos, of which each process takes its part."""
        return len(self.stream.source)


def planned(
    stages: Sequence[Stage],
    sources: Mapping[StreamName, PhotoSource],
    teachers: Teachers,
    seed: int,
) -> list[Work]:
    """List the work for the streams that have fixed views; others keep nothing.

    `sources` are the photos to train on, `seed` is the run's.
    """
    return [
        _work(stage, name, size, sources[name], teachers, seed)
        for stage in stages
        if isinstance(stage, TrainStage)
        for name in STREAMS
        for size in _sizes(getattr(stage, name))
        if name in sources and not (name == "instances" and teachers.annotations is not None)
    ]


def precompute(
    work: Work,
    processes: Processes,
    report: Report,
    views_at_once: int = VIEWS_AT_ONCE,
) -> int:
    """Ask about every fixed view of this process's photos; returns how many views these are.

    `report` is called once for each photo that is done. Raises ImageError for a photo that cannot
    be read.
    """
    done = 0
    draws = _batches(work, processes, views_at_once)
    for batch in prefetch(work.stream.render, draws):
        work.ask(batch)
        before, done = done, done + len(batch.samples)
        for photo in range(before // work.views, done // work.views):
            report(f"{photo + 1} photos")
    return done


def _work(
    stage: TrainStage,
    name: StreamName,
    size: int,
    source: PhotoSource,
    teachers: Teachers,
    seed: int,
) -> Work:
    config: Batch = getattr(stage, name)
    sampler = Sampler(source, Sampling(seed, stage.name, name, config.batch, config.views))
    stream = ViewStream(source, sampler, config.view.at(size))

    def ask(batch: ViewBatch) -> None:
        _ask(teachers, batch, stage, name, config)

    return Work(f"{stage.name}: {name} at {size} px", stream, config.views, ask)


def _ask(
    teachers: Teachers, batch: ViewBatch, stage: TrainStage, name: StreamName, config: Batch
) -> None:
    """Ask what the stage's losses want to know of one of its streams."""
    losses, embeddings = stage.losses, None
    if name == "names" and losses.clip:
        teachers.embeds(batch, keep=True)
    if name == "masks" and (losses.sam or losses.embed):
        embeddings = teachers.embeddings(batch, keep=True)
    if name == "instances" or (losses.region and config.regions):
        teachers.regions(batch, config.regions, True, embeddings)


def _batches(work: Work, processes: Processes, views_at_once: int) -> Iterator[Sequence[Draw]]:
    """Yield the draws of this process's photos, so many at a time."""
    waiting: list[Draw] = []
    for index in range(processes.rank, work.photos, processes.world):
        waiting += work.stream.sampler.fixed_draws(index)
        while len(waiting) >= views_at_once:
            yield waiting[:views_at_once]
            waiting = waiting[views_at_once:]
    if waiting:
        yield waiting


def _sizes(batch: Batch | None) -> tuple[int, ...]:
    """Tell the sizes of a stream with fixed views; none for any other."""
    return batch.sizes if batch is not None and batch.views else ()
