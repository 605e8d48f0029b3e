"""The stages of a run: what is trained, on which batches, by which losses, for how long."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from samclip.errors import ConfigError
from samclip.merge.data.views import ViewOptions

PATCH = 16

StreamName = Literal["names", "masks", "instances"]
STREAMS: tuple[StreamName, ...] = ("names", "masks", "instances")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every table of the file.

    Defaults are left out of what is written, so a run's digest is not changed by a new field.
    """


class ViewConfig(Settings, frozen=True, kw_only=True):
    """How views of photos are drawn; the fields are those of `ViewOptions`, but for the size."""

    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    whole: float = 0.25
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def at(self, size: int) -> ViewOptions:
        """Give the options at `size` pixels; raises InputError for values out of range."""
        return ViewOptions(size, **msgspec.structs.asdict(self))


class Batch(Settings, frozen=True, kw_only=True):
    """A stream's share of each step: `batch` photos over all processes, in squares of `size`.

    A list of sizes trains at variable resolution: each step draws one. `micro` photos at a time go
    through the model, their gradients added up; None takes all. `views` is the number of different
    views of a photo, whose teachers' answers are kept; 0 draws a new view every time and keeps
    nothing. `regions` is the most regions of a photo that are named.
    """

    batch: int
    size: int | tuple[int, ...]
    micro: int | None = None
    views: int = 0
    view: ViewConfig = ViewConfig()
    regions: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes as a tuple, in pixels."""
        return (self.size,) if isinstance(self.size, int) else self.size


class MaskBatch(Batch, frozen=True, kw_only=True):
    """The masks' stream: `prompts` a photo, the share `boxes` of them boxes, else points."""

    prompts: int = 32
    boxes: float = 0.5


class InstanceBatch(Batch, frozen=True, kw_only=True):
    """The stream of named instances: `prompts` a photo, the share `boxes` of them boxes.

    The others are points inside the masks. Where the photos are not annotated, `regions` is the
    most regions of a photo that the teachers find and name.
    """

    prompts: int = 40
    boxes: float = 0.5


class Losses(Settings, frozen=True, kw_only=True):
    """The weight of each loss; 0 leaves it out.

    `clip`: pooled embeddings, on the names' stream. `region`: patch embeddings inside the teacher's
    masks, the dense term for names, on every stream with `regions`. `sam`: masks of the same
    prompts; SAM-CLIP's lambda. `embed`: image embeddings place by place; both on the masks' stream.
    `mask`, `dice` and `label`: the masks of prompted instances, by cross entropy and by overlap,
    and their names; Open-Vocabulary SAM's three, on the instances' stream.
    """

    clip: float = 0.0
    region: float = 0.0
    sam: float = 0.0
    embed: float = 0.0
    mask: float = 0.0
    dice: float = 0.0
    label: float = 0.0

    @property
    def instances(self) -> bool:
        """Whether any loss is on the instances' stream."""
        return bool(self.mask or self.dice or self.label)


class MaskLossConfig(Settings, frozen=True, kw_only=True):
    """Inside `sam`: the weights of focal, dice and predicted IoU, and what they compare.

    `targets`: the teacher's probabilities (soft) or decisions (hard). `outputs`: each of a
    prompt's four masks with the teacher's same one (every), or the best one, as SAM is trained.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    targets: Literal["soft", "hard"] = "soft"
    outputs: Literal["every", "best"] = "every"


class EmbedLossConfig(Settings, frozen=True, kw_only=True):
    """Inside `embed`: the weights of cosine distance, smooth L1 loss and squared error."""

    cosine: float = 1.0
    smooth_l1: float = 1.0
    squared: float = 0.0


class InstanceLossConfig(Settings, frozen=True, kw_only=True):
    """Inside `mask` and `dice`: how many `points` of a mask are compared; None takes every pixel.

    The points are drawn as PointRend does: of `oversample` times as many the share `uncertain`
    whose logits are nearest to 0, the rest from anywhere.
    """

    points: int | None = None
    oversample: float = 3.0
    uncertain: float = 0.75


class TrainStage(Settings, frozen=True, kw_only=True, tag_field="kind", tag="train"):
    """Gradient training with AdamW.

    `steps`, or `epochs` over the photos of the names' stream (of the masks' one where there is no
    such stream, else of the instances'). The learning rate rises for the share `warmup` of the
    stage, then falls by a cosine to the share `floor` of itself, or stays (`constant`). `stop`
    below 1 ends the stage at that share of its schedule, as SAM-CLIP's stage II ends after 16 of 20
    epochs. `train` gives parts of the model, by the beginnings of their parameters' names, and the
    factor on the learning rate of each; the longest beginning counts and all else stays as it is.
    `batch_norms`: those of the parts in training keep their statistics (frozen), as weights that
    were trained before want it, or follow the batches (moving), as a backbone that begins at random
    needs it; on one process, for a batch is then more than the sum of its photos.
    """

    name: str
    steps: int | None = None
    epochs: float | None = None
    stop: float = 1.0
    learning_rate: float
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.03
    floor: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    ema: float | None = None
    train: dict[str, float]
    losses: Losses
    mask_loss: MaskLossConfig = MaskLossConfig()
    embed_loss: EmbedLossConfig = EmbedLossConfig()
    instance_loss: InstanceLossConfig = InstanceLossConfig()
    names: Batch | None = None
    masks: MaskBatch | None = None
    instances: InstanceBatch | None = None
    batch_norms: Literal["frozen", "moving"] = "frozen"
    gradient_checkpointing: bool = False
    evaluate_every: int | None = None

    def scaled(self, scale: float) -> TrainStage:
        """Return the stage with `scale` times its length, one step at least."""
        if scale == 1:
            return self
        steps = None if self.steps is None else max(1, round(self.steps * scale))
        epochs = None if self.epochs is None else self.epochs * scale
        return msgspec.structs.replace(self, steps=steps, epochs=epochs)


class HiddenConfig(Settings, frozen=True, kw_only=True):
    """How a stitch's hidden layer is found: `steps` of Adam, `batch` places each.

    `places` of every photo are remembered, 3.6 KB each. The learning rate rises over the `warmup`
    share of the steps and falls to 0 after it.
    """

    places: int = 4096
    steps: int = 2000
    batch: int = 4096
    learning_rate: float = 2e-3
    warmup: float = 0.05


class StitchStage(Settings, frozen=True, kw_only=True, tag_field="kind", tag="stitch"):
    """The adapter between a frozen recogniser and the teacher's encoder.

    Its linear part in closed form: least squares over the valid places of `photos` views, with
    `ridge` times the mean of the normal matrix's diagonal added to it. With `hidden`, its hidden
    layer by gradient on what that leaves; without, it stays linear.
    """

    name: str
    photos: int = 200
    size: int = 1024
    ridge: float = 1e-3
    hidden: HiddenConfig | None = None
    view: ViewConfig = ViewConfig(whole=1.0, flip=0.5, brightness=0, contrast=0, saturation=0)

    @property
    def length(self) -> int:
        """Photos and steps, all in all."""
        return self.photos + (self.hidden.steps if self.hidden else 0)

    def scaled(self, scale: float) -> StitchStage:
        """Return the stage with `scale` times its photos and steps, one of each at least."""
        hidden = self.hidden
        if hidden is not None:
            hidden = msgspec.structs.replace(hidden, steps=max(1, round(hidden.steps * scale)))
        photos = max(1, round(self.photos * scale))
        return msgspec.structs.replace(self, photos=photos, hidden=hidden)


Stage = TrainStage | StitchStage


def check_stage(stage: Stage) -> None:
    """Check what types cannot say of a stage; raises ConfigError with the stage's name."""
    if isinstance(stage, StitchStage):
        _require(stage, stage.photos > 0 and stage.ridge >= 0, "photos > 0 and ridge >= 0")
        _check_sizes(stage, (stage.size,))
        stage.view.at(stage.size)
        _check_hidden(stage, stage.hidden)
        return
    _require(stage, (stage.steps is None) != (stage.epochs is None), "either steps or epochs")
    _require(stage, (stage.steps or stage.epochs or 0) > 0, "a length above 0")
    _require(stage, 0 < stage.stop <= 1, "stop above 0, up to 1")
    _require(stage, stage.learning_rate > 0, "learning_rate above 0")
    _require(stage, 0 <= stage.warmup < 1 and 0 <= stage.floor <= 1, "warmup, floor from 0 to 1")
    _require(stage, stage.ema is None or 0 < stage.ema < 1, "ema between 0 and 1")
    _require(stage, stage.clip_norm is None or stage.clip_norm > 0, "clip_norm above 0")
    _require(stage, bool(stage.train), "parts to train, such as train = { clip_head = 1.0 }")
    _require(stage, all(factor >= 0 for factor in stage.train.values()), "factors of at least 0")
    checkpoints = stage.gradient_checkpointing
    both = "batch_norms frozen with gradient_checkpointing, which would show them each batch twice"
    _require(stage, not (checkpoints and stage.batch_norms == "moving"), both)
    _check_losses(stage)
    for batch in (stage.names, stage.masks, stage.instances):
        if batch is not None:
            _check_batch(stage, batch)


def _check_hidden(stage: StitchStage, hidden: HiddenConfig | None) -> None:
    if hidden is None:
        return
    counts = (hidden.places, hidden.steps, hidden.batch)
    _require(stage, min(counts) > 0, "hidden.places, .steps and .batch above 0")
    _require(stage, hidden.learning_rate > 0, "hidden.learning_rate above 0")
    _require(stage, 0 < hidden.warmup < 1, "hidden.warmup between 0 and 1")


def _check_losses(stage: TrainStage) -> None:
    """Check that every loss has the stream that it is computed on."""
    losses = stage.losses
    weights: dict[str, float] = msgspec.structs.asdict(losses)
    _require(stage, all(w >= 0 for w in weights.values()), "losses of at least 0")
    _require(stage, any(weights.values()), "a loss above 0")
    _require(stage, not losses.clip or stage.names is not None, "names = {...}")
    _require(stage, not (losses.sam or losses.embed) or stage.masks is not None, "masks = {...}")
    _require(stage, not losses.instances or stage.instances is not None, "instances = {...}")
    regions = any(batch is not None and batch.regions for batch in (stage.names, stage.masks))
    _require(stage, not losses.region or regions, "regions above 0 in names or masks")
    drawn = stage.instance_loss
    _require(stage, drawn.points is None or drawn.points > 0, "instance_loss.points above 0")
    _require(stage, drawn.oversample >= 1, "instance_loss.oversample of at least 1")
    _require(stage, 0 <= drawn.uncertain <= 1, "instance_loss.uncertain from 0 to 1")


def _check_batch(stage: TrainStage, batch: Batch) -> None:
    """Check a stream's numbers."""
    _require(stage, batch.batch > 0 and (batch.micro or 1) > 0, "batch and micro above 0")
    _require(stage, min(batch.views, batch.regions) >= 0, "views and regions of at least 0")
    _check_sizes(stage, batch.sizes)
    for size in batch.sizes:
        batch.view.at(size)
    if isinstance(batch, MaskBatch | InstanceBatch):
        _require(stage, batch.prompts > 0, "prompts above 0")
        _require(stage, 0 <= batch.boxes <= 1, "boxes from 0 to 1")


def _check_sizes(stage: Stage, sizes: tuple[int, ...]) -> None:
    fits = bool(sizes) and all(size % PATCH == 0 and 64 <= size <= 4096 for size in sizes)
    _require(stage, fits, f"sizes that are multiples of {PATCH} from 64 to 4096")


def _require(stage: Stage, fits: Any, expected: str) -> None:
    if not fits:
        raise ConfigError(f"stage {stage.name!r}: expected {expected}")
