"""The stages of a run's file: what is trained, on which batches, by which losses, for how long."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from samclip.errors import ConfigError, InputError
from samclip.merge.config.tables import TomlTable

PATCH = 16

StreamName = Literal["names", "masks", "instances"]
STREAMS: tuple[StreamName, ...] = ("names", "masks", "instances")


class ViewConfig(TomlTable, frozen=True, kw_only=True):
    """The ranges that views of photos are drawn from.

    `scale`: the least and the greatest share of the photo's area that a crop has; `ratio`: the
    least and the greatest width / height of a crop; `whole`: the share of views that show the whole
    photo instead; `flip`: the share that is mirrored. `brightness`, `contrast` and `saturation` b
    give factors drawn from [1 - b, 1 + b], `hue` an angle in degrees from [-hue, hue]. Beyer et al.
    (2022) draw areas from almost nothing to all; 0.1 is our choice for small data sets of small
    photos. Raises InputError for values out of range.
    """

    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    whole: float = 0.25
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        self._check("scale", 0 < self.scale[0] <= self.scale[1] <= 1, "0 < least <= most <= 1")
        self._check("ratio", 0 < self.ratio[0] <= self.ratio[1], "0 < least <= most")
        for name in ("whole", "flip", "brightness", "contrast", "saturation"):
            self._check(name, 0 <= getattr(self, name) <= 1, "0 to 1")
        self._check("hue", 0 <= self.hue <= 180, "0 to 180 degrees")

    def _check(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise InputError(f"{name} of a view is {getattr(self, name)}; expected {expected}")


class Batch(TomlTable, frozen=True, kw_only=True):
    """A stream's share of each step: `batch` photos over all processes, in squares of `size`.

    A list of sizes trains at variable resolution: each step draws one. `micro` photos at a time go
    through the model, and their gradients are added up; None takes all. `views` is the number of
    different views of a photo, for which the teachers' answers are kept; 0 draws a new view every
    time and keeps nothing. `regions` is the most regions of a photo that are named.
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
    """The masks' stream: `prompts` for each photo, the share `boxes` of them boxes, else points."""

    prompts: int = 32
    boxes: float = 0.5


class InstanceBatch(Batch, frozen=True, kw_only=True):
    """The stream of named instances: `prompts` for each photo, the share `boxes` of them boxes.

    The others are points inside the masks. Where the photos are not annotated, `regions` is the
    most regions of a photo that the teachers find and name.
    """

    prompts: int = 40
    boxes: float = 0.5


class Losses(TomlTable, frozen=True, kw_only=True):
    """The weight of each loss; 0 leaves it out.

    On the names' stream, `clip`: pooled embeddings. On the masks' stream, `sam`: masks of the same
    prompts (SAM-CLIP's lambda), and `embed`: image embeddings, position by position. On both, where
    they have `regions`, `region`: patch embeddings inside the teacher's masks, the dense term for
    names. On the instances' stream, `mask`, `dice` and `label`: the masks of prompted instances, by
    cross entropy and by overlap, and their names; these three are Open-Vocabulary SAM's.
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


class MaskLossConfig(TomlTable, frozen=True, kw_only=True):
    """The parts of `sam`: the weights of focal, dice and predicted IoU, and what they compare.

    `targets`: the teacher's probabilities (soft) or decisions (hard). `outputs`: each of a
    prompt's four masks with the teacher's same one (every), or the best one, as SAM is trained.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    targets: Literal["soft", "hard"] = "soft"
    outputs: Literal["every", "best"] = "every"


class EmbedLossConfig(TomlTable, frozen=True, kw_only=True):
    """The parts of `embed`: the weights of cosine distance, smooth L1 loss and squared error."""

    cosine: float = 1.0
    smooth_l1: float = 1.0
    squared: float = 0.0


class InstanceLossConfig(TomlTable, frozen=True, kw_only=True):
    """The parts of `mask` and `dice`: how many `points` of a mask are compared; None: every pixel.

    Points are drawn as in PointRend. The share `uncertain` of them are those with logits nearest to
    0 among `oversample` times `points` random ones; the rest come from anywhere.
    """

    points: int | None = None
    oversample: float = 3.0
    uncertain: float = 0.75


class TrainStage(TomlTable, frozen=True, kw_only=True, tag_field="kind", tag="train"):
    """Gradient training with AdamW.

    The length is `steps`, or `epochs` over the photos of the stage's first stream, in the order
    names, masks, instances. The learning rate rises for the share `warmup` of the stage, then falls
    by a cosine to the share `floor` of itself, or stays (`constant`). `stop` below 1 ends the stage
    at that share of its schedule, as SAM-CLIP's stage II ends after 16 of 20 epochs. `train` maps
    parts of the model, by prefixes of their parameters' names, to factors on the learning rate; the
    longest prefix counts, and everything else stays frozen. `batch_norms` of the trained parts
    keep their statistics (frozen), as pretrained weights need, or follow the batches (moving), as
    a backbone that starts at random needs. Moving ones take a single process, because their
    statistics depend on the batch as a whole. `ema` is the decay of a running average of the
    weights, which become that average at the end of the stage. `evaluate_every`: steps between two
    evaluations within the stage.
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
        """Return the stage with `scale` times its length, at least one step."""
        if scale == 1:
            return self
        steps = None if self.steps is None else max(1, round(self.steps * scale))
        epochs = None if self.epochs is None else self.epochs * scale
        return msgspec.structs.replace(self, steps=steps, epochs=epochs)


class HiddenConfig(TomlTable, frozen=True, kw_only=True):
    """The fit of a stitch's hidden layer: `steps` of Adam on `batch` positions each.

    `places` positions of every photo are kept in memory, 3.6 KB each. The learning rate rises over
    the share `warmup` of the steps and then falls to 0.
    """

    places: int = 4096
    steps: int = 2000
    batch: int = 4096
    learning_rate: float = 2e-3
    warmup: float = 0.05


class StitchStage(TomlTable, frozen=True, kw_only=True, tag_field="kind", tag="stitch"):
    """The fit of the adapter between a frozen recogniser and the teacher's encoder.

    Its linear part has a closed form: least squares over the valid positions of `photos` views,
    with `ridge` times the mean of the normal matrix's diagonal added to the diagonal. With
    `hidden`, its hidden layer is then fitted to the residual by gradient descent; without, the
    adapter stays linear.
    """

    name: str
    photos: int = 200
    size: int = 1024
    ridge: float = 1e-3
    hidden: HiddenConfig | None = None
    view: ViewConfig = ViewConfig(whole=1.0, flip=0.5, brightness=0, contrast=0, saturation=0)

    @property
    def length(self) -> int:
        """The number of photos and steps together."""
        return self.photos + (self.hidden.steps if self.hidden else 0)

    def scaled(self, scale: float) -> StitchStage:
        """Return the stage with `scale` times its photos and steps, at least one of each."""
        hidden = self.hidden
        if hidden is not None:
            hidden = msgspec.structs.replace(hidden, steps=max(1, round(hidden.steps * scale)))
        photos = max(1, round(self.photos * scale))
        return msgspec.structs.replace(self, photos=photos, hidden=hidden)


Stage = TrainStage | StitchStage


def check_stage(stage: Stage) -> None:
    """Check a stage's values and their combinations; raises ConfigError with the stage's name."""
    if isinstance(stage, StitchStage):
        _require(stage, stage.photos > 0 and stage.ridge >= 0, "photos > 0 and ridge >= 0")
        _check_sizes(stage, (stage.size,))
        if stage.hidden is not None:
            counts = (stage.hidden.places, stage.hidden.steps, stage.hidden.batch)
            _require(stage, min(counts) > 0, "hidden.places, .steps and .batch above 0")
            _require(stage, stage.hidden.learning_rate > 0, "hidden.learning_rate above 0")
            _require(stage, 0 < stage.hidden.warmup < 1, "hidden.warmup between 0 and 1")
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
    _require(
        stage,
        not (stage.gradient_checkpointing and stage.batch_norms == "moving"),
        "batch_norms frozen with gradient_checkpointing, which would show them each batch twice",
    )
    _check_losses(stage)
    for batch in (stage.names, stage.masks, stage.instances):
        if batch is not None:
            _check_batch(stage, batch)


def _check_losses(stage: TrainStage) -> None:
    """Check the losses' weights, and that every loss has the stream that it is computed on."""
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
    """Check the numbers of a stream."""
    _require(stage, batch.batch > 0 and (batch.micro or 1) > 0, "batch and micro above 0")
    _require(stage, min(batch.views, batch.regions) >= 0, "views and regions of at least 0")
    _check_sizes(stage, batch.sizes)
    if isinstance(batch, MaskBatch | InstanceBatch):
        _require(stage, batch.prompts > 0, "prompts above 0")
        _require(stage, 0 <= batch.boxes <= 1, "boxes from 0 to 1")


def _check_sizes(stage: Stage, sizes: tuple[int, ...]) -> None:
    fits = bool(sizes) and all(size % PATCH == 0 and 64 <= size <= 4096 for size in sizes)
    _require(stage, fits, f"sizes that are multiples of {PATCH} from 64 to 4096")


def _require(stage: Stage, fits: Any, expected: str) -> None:
    if not fits:
        raise ConfigError(f"stage {stage.name!r}: expected {expected}")
