"""The teachers' answers computed in advance, for all fixed views that the stages of a run will use.

Answers that are already on disk are not computed again, so the work may be stopped and started
again at any time, and divided among processes that share the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samclip.merge.config.stages import STREAMS, Batch, Stage, StreamName, TrainStage
from samclip.merge.data.batches import Processes, ViewBatch, ViewStream
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.sampler import Draw, Sampler, Sampling
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.runtime.series import prefetch

VIEWS_AT_ONCE = 4

Report = Callable[[str], None]


@dataclass(frozen=True)
class StreamWork:
    """One stream of a stage at one size: its photos, with `views` views each, to ask about."""

    title: str
    stream: ViewStream
    views: int
    ask: Callable[[ViewBatch], None]

    @property
    def photos(self) -> int:
        """The number of photos, of which each process takes its part."""
        return len(self.stream.source)


def plan_work(
    stages: Sequence[Stage],
    sources: Mapping[StreamName, PhotoSource],
    teachers: Teachers,
    seed: int,
) -> list[StreamWork]:
    """List the streams with fixed views; answers for others are not kept.

    `sources` are the photos to train on, `seed` is the run's.
    """
    works = []
    for stage in stages:
        if not isinstance(stage, TrainStage):
            continue
        for name in STREAMS:
            batch: Batch | None = getattr(stage, name)
            annotated = name == "instances" and teachers.annotations is not None
            if batch is None or not batch.views or name not in sources or annotated:
                continue
            works += [
                _stream_work(stage, name, size, sources[name], teachers, seed)
                for size in batch.sizes
            ]
    return works


def precompute(
    work: StreamWork,
    processes: Processes,
    report: Report,
    views_at_once: int = VIEWS_AT_ONCE,
) -> int:
    """Ask about every fixed view of this process's photos; returns the number of views.

    `report` is called once for each photo that is done. Raises ImageError for a photo that cannot
    be read.
    """
    done = 0
    draws = _chunk_draws(work, processes, views_at_once)
    for batch in prefetch(work.stream.render, draws):
        work.ask(batch)
        before, done = done, done + len(batch.samples)
        for photo in range(before // work.views, done // work.views):
            report(f"{photo + 1} photos")
    return done


def _stream_work(
    stage: TrainStage,
    name: StreamName,
    size: int,
    source: PhotoSource,
    teachers: Teachers,
    seed: int,
) -> StreamWork:
    config: Batch = getattr(stage, name)
    sampling = Sampling(
        seed=seed, stage=stage.name, stream=name, batch=config.batch, fixed_views=config.views
    )

    def ask(batch: ViewBatch) -> None:
        losses = stage.losses
        embeddings = None
        if name == "names" and losses.clip:
            teachers.embeds(batch, keep=True)
        if name == "masks" and (losses.sam or losses.embed):
            embeddings = teachers.embeddings(batch, keep=True)
        if name == "instances" or (losses.region and config.regions):
            teachers.regions(batch, config.regions, True, embeddings)

    return StreamWork(
        title=f"{stage.name}: {name} at {size} px",
        stream=ViewStream(source, Sampler(source, sampling), config.view, size),
        views=config.views,
        ask=ask,
    )


def _chunk_draws(
    work: StreamWork, processes: Processes, views_at_once: int
) -> Iterator[Sequence[Draw]]:
    """Yield the draws of this process's photos, `views_at_once` at a time."""
    waiting: list[Draw] = []
    for index in range(processes.rank, work.photos, processes.world):
        waiting += work.stream.sampler.fixed_draws(index)
        while len(waiting) >= views_at_once:
            yield waiting[:views_at_once]
            waiting = waiting[views_at_once:]
    if waiting:
        yield waiting
