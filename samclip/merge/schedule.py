"""How long a stage is, and the learning rate of each of its steps."""

from __future__ import annotations

import math

from samclip.merge.stages import STREAMS, Batch, StreamName, TrainStage


def counted_stream(stage: TrainStage) -> StreamName:
    """Tell which of a stage's streams its epochs are counted on: the first that it has."""
    return next(stream for stream in STREAMS if getattr(stage, stream) is not None)


def schedule_length(stage: TrainStage, photos: int) -> int:
    """Count the steps of a stage's whole schedule; an epoch is every one of `photos` once."""
    if stage.steps is not None:
        return stage.steps
    batch: Batch | None = getattr(stage, counted_stream(stage))
    per_step = batch.batch if batch is not None else 1
    return max(1, math.ceil((stage.epochs or 0) * photos / per_step))


def steps_to_run(stage: TrainStage, photos: int) -> int:
    """Count the steps that are run: the share `stop` of the schedule, one at least."""
    return max(1, round(stage.stop * schedule_length(stage, photos)))


def learning_rate(stage: TrainStage, step: int, length: int) -> float:
    """Return the learning rate of step 0, 1, ... of a schedule of `length` steps.

    Linear warm-up from the first share of it to the full rate, then half a cosine (Loshchilov and
    Hutter, 2017, equation 5) down to `floor`. SAM-CLIP does not state its schedule.
    """
    warmup = math.ceil(stage.warmup * length)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if stage.schedule == "constant":
        return stage.learning_rate
    progress = (step - warmup) / max(1, length - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.learning_rate * (stage.floor + (1 - stage.floor) * falling)
