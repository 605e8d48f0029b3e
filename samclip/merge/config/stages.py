"""The stages of a run's file: what is trained, on which batches, by which losses, for how long."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from samclip.errors import ConfigError, InputError
from samclip.merge.config.tables import TomlTable

PATCH = 16
LABEL_STEP = 64  # of the sizes of labelled photos: a stride of 32, seen at half the size too
SIZES = f"multiples of {PATCH} from 64 to 4096"

StreamName = Literal["names", "masks", "instances"]
STREAMS: tuple[StreamName, ...] = ("names", "masks", "instances")


class ViewConfig(TomlTable, frozen=True, kw_only=True):
    """The ranges that views of photos are drawn from.

    Raises InputError for values out of range.
    """

    scale: tuple[float, float] = (0.1, 1.0)
    """Least and greatest share of the photo's area that a crop has. Beyer et al. (2022) draw areas
    from almost nothing to all; the default is our choice for small sets of small photos. Range: 0 <
    least <= greatest <= 1.
    """
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height of a crop. Range: 0 < least <= greatest."""
    whole: float = 0.25
    """Share of the views that show the whole photo instead of a crop. Range: 0 to 1."""
    flip: float = 0.5
    """Share of the views that is mirrored. Range: 0 to 1."""
    brightness: float = 0.2
    """Half the width of the interval around 1 that the factor is drawn from. Range: 0 to 1."""
    contrast: float = 0.2
    """The same for the contrast. Range: 0 to 1."""
    saturation: float = 0.2
    """The same for the saturation. Range: 0 to 1."""
    hue: float = 0.0
    """Greatest angle that hues are turned by, either way, in degrees. Range: 0 to 180."""

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
    """A stream's share of each step."""

    batch: int
    """Photos of a step, over all processes. Range: at least 1."""
    size: int | tuple[int, ...]
    """Side of the square image, in pixels. A list trains at variable resolution: each step draws
    one. Masks and instances of an Open-Vocabulary SAM take the student's own. Range: multiples of
    16 from 64 to 4096.
    """
    micro: int | None = None
    """Photos that go through the model at a time; their gradients are added up. Without it, all.
    Range: at least 1.
    """
    views: int = 0
    """Different views of a photo, for which the teachers' answers are kept. 0 draws a new view
    every time and keeps nothing. Range: at least 0.
    """
    view: ViewConfig = ViewConfig()
    """How views are drawn."""
    regions: int = 0
    """Most regions of a photo that are named. For instances without annotations, the most that the
    teachers find and name. Range: at least 0.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes as a tuple, in pixels."""
        return (self.size,) if isinstance(self.size, int) else self.size


class MaskBatch(Batch, frozen=True, kw_only=True):
    """The masks' stream."""

    prompts: int = 32
    """Prompts for each photo. Range: at least 1."""
    boxes: float = 0.5
    """Share of the prompts that are boxes; the others are points. Range: 0 to 1."""


class InstanceBatch(Batch, frozen=True, kw_only=True):
    """The stream of named instances."""

    prompts: int = 40
    """Prompts for each photo. Range: at least 1."""
    boxes: float = 0.5
    """Share of the prompts that are boxes; the others are points inside the masks. Range: 0 to 1.
    """


class Losses(TomlTable, frozen=True, kw_only=True):
    """The weight of each loss; 0 leaves it out, and one must be above 0."""

    clip: float = 0.0
    """Names' stream: pooled embeddings. Range: at least 0."""
    region: float = 0.0
    """Names' and masks' streams with `regions`: patch embeddings inside the teacher's masks, the
    dense term for names. Range: at least 0.
    """
    sam: float = 0.0
    """Masks' stream: masks of the same prompts, SAM-CLIP's lambda. Range: at least 0."""
    embed: float = 0.0
    """Masks' stream: image embeddings, position by position. Range: at least 0."""
    mask: float = 0.0
    """Instances' stream: masks of prompted instances by cross entropy, as in Open-Vocabulary SAM.
    Range: at least 0.
    """
    dice: float = 0.0
    """Instances' stream: the same masks by overlap. Range: at least 0."""
    label: float = 0.0
    """Instances' stream: the names of prompted instances. Range: at least 0."""

    @property
    def instances(self) -> bool:
        """Whether any loss is on the instances' stream."""
        return bool(self.mask or self.dice or self.label)


class MaskLossConfig(TomlTable, frozen=True, kw_only=True):
    """The parts of the loss `sam`."""

    focal: float = 20.0
    """Weight of the focal loss. Range: at least 0."""
    dice: float = 1.0
    """Weight of the dice loss. Range: at least 0."""
    iou: float = 1.0
    """Weight of the error of the predicted IoU. Range: at least 0."""
    targets: Literal["soft", "hard"] = "soft"
    """What masks are compared with: the teacher's probabilities (`soft`) or decisions (`hard`)."""
    outputs: Literal["every", "best"] = "every"
    """`every`: each of a prompt's four masks with the teacher's same one. `best`: the best one, as
    SAM is trained.
    """


class EmbedLossConfig(TomlTable, frozen=True, kw_only=True):
    """The parts of the loss `embed`."""

    cosine: float = 1.0
    """Weight of the cosine distance. Range: at least 0."""
    smooth_l1: float = 1.0
    """Weight of the smooth L1 loss. Range: at least 0."""
    squared: float = 0.0
    """Weight of the squared error. Range: at least 0."""


class InstanceLossConfig(TomlTable, frozen=True, kw_only=True):
    """The points at which the losses `mask` and `dice` compare, drawn as in PointRend."""

    points: int | None = None
    """Points of a mask that are compared; without it, every pixel. Range: at least 1."""
    oversample: float = 3.0
    """Random points for each point that is kept, among which uncertain ones are sought. Range: at
    least 1.
    """
    uncertain: float = 0.75
    """Share of the points that are those with logits nearest to 0; the rest come from anywhere.
    Range: 0 to 1.
    """


class TrainStage(TomlTable, frozen=True, kw_only=True, tag_field="kind", tag="train"):
    """Gradient training with AdamW. Its `kind` is train, which may be left out."""

    name: str
    """Name of the stage; every name once."""
    steps: int | None = None
    """Length in steps. Give either this or `epochs`. Range: at least 1."""
    epochs: float | None = None
    """Length in passes over the photos of the stage's first stream, in the order names, masks,
    instances. Range: above 0.
    """
    stop: float = 1.0
    """Share of its schedule at which the stage ends, as SAM-CLIP's stage II ends after 16 of 20
    epochs. Range: above 0, up to 1.
    """
    learning_rate: float
    """Highest learning rate. Range: above 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up the learning rate falls by a `cosine`, or stays `constant`."""
    warmup: float = 0.03
    """Share of the stage in which the learning rate rises from 0. Range: 0 to below 1."""
    floor: float = 0.0
    """Share of the learning rate that the cosine falls to. Range: 0 to 1."""
    weight_decay: float = 0.01
    """Weight decay of AdamW. Range: at least 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of the moments of AdamW. Range: 0 to below 1, each."""
    clip_norm: float | None = 1.0
    """Greatest norm of the gradient, which is scaled down to it. Range: above 0."""
    ema: float | None = None
    """Decay of a running average of the weights, which become that average at the end of the stage;
    without it, there is none. Range: above 0, below 1.
    """
    train: dict[str, float]
    """Parts of the model that are trained, by prefixes of their parameters' names, with factors on
    the learning rate. The longest prefix counts; all else stays frozen. Range: at least 0, each.
    """
    losses: Losses
    """Weights of the losses."""
    mask_loss: MaskLossConfig = MaskLossConfig()
    """Parts of the loss `sam`."""
    embed_loss: EmbedLossConfig = EmbedLossConfig()
    """Parts of the loss `embed`."""
    instance_loss: InstanceLossConfig = InstanceLossConfig()
    """Points of the losses `mask` and `dice`."""
    names: Batch | None = None
    """Batches of photos that are named as a whole."""
    masks: MaskBatch | None = None
    """Batches of photos that are prompted."""
    instances: InstanceBatch | None = None
    """Batches of photos with named instances."""
    batch_norms: Literal["frozen", "moving"] = "frozen"
    """Batch norms of the trained parts keep their statistics (`frozen`), as pretrained weights
    need, or follow the batches (`moving`), as a backbone that starts at random needs. `moving`
    takes a single process.
    """
    gradient_checkpointing: bool = False
    """Whether activations of the encoder are computed again in the backward pass: less memory, more
    time.
    """
    evaluate_every: int | None = None
    """Steps between two evaluations within the stage; without it, there is one at the end. Range:
    at least 1.
    """

    def scaled(self, scale: float) -> TrainStage:
        """Return the stage with `scale` times its length, at least one step."""
        if scale == 1:
            return self
        steps = None if self.steps is None else max(1, round(self.steps * scale))
        epochs = None if self.epochs is None else self.epochs * scale
        return msgspec.structs.replace(self, steps=steps, epochs=epochs)


class HiddenConfig(TomlTable, frozen=True, kw_only=True):
    """The fit of a stitch's hidden layer by Adam; the learning rate rises, then falls to 0."""

    places: int = 4096
    """Positions of every photo that are kept in memory, 3.6 KB each. Range: at least 1."""
    steps: int = 2000
    """Steps of Adam. Range: at least 1."""
    batch: int = 4096
    """Positions of a step. Range: at least 1."""
    learning_rate: float = 2e-3
    """Highest learning rate. Range: above 0."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises. Range: above 0, below 1."""


class StitchStage(TomlTable, frozen=True, kw_only=True, tag_field="kind", tag="stitch"):
    """The fit of the adapter between a frozen recogniser and the mask teacher's encoder.

    Its linear part has a closed form: least squares over the valid positions. Its `kind` is stitch.
    """

    name: str
    """Name of the stage; every name once."""
    photos: int = 200
    """Views that positions are taken from. Range: at least 1."""
    size: int = 1024
    """Side of the square image, in pixels. Range: multiples of 16 from 64 to 4096."""
    ridge: float = 1e-3
    """Share of the mean of the normal matrix's diagonal that is added to the diagonal. Range: at
    least 0.
    """
    hidden: HiddenConfig | None = None
    """Fit of a hidden layer to what the linear part leaves; without it, the adapter stays linear.
    """
    view: ViewConfig = ViewConfig(whole=1.0, flip=0.5, brightness=0, contrast=0, saturation=0)
    """How views are drawn."""

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


class LabelSource(TomlTable, frozen=True, kw_only=True):
    """Labelled photos that a stage of kind teach learns names from."""

    kind: Literal["coco", "maps", "folders"]
    """`coco`: `instances.json` and `images/`. `maps`: `images/`, `labels/` of 8-bit PNGs with the
    same names, and `classes.json`, an object of value: name or one with `names`. `folders`: a
    folder of photos for each name.
    """
    folder: str
    """Folder of the data set."""
    names: dict[str, str] = msgspec.field(default_factory=dict)
    """The data set's own names, where they differ from those of the vocabulary; an empty text
    leaves the label out.
    """
    licenses: tuple[int, ...] = ()
    """Of kind coco, the ids of the licences whose photos are taken; without it, all photos.
    Range: at least 0, each.
    """
    size: int = 1024
    """Side of the square that photos are fitted into, in pixels. Small photos cost less in a
    smaller one. Range: multiples of 64 from 64 to 4096.
    """
    photos: int | None = None
    """Most photos that are taken, in the order of their contents' hashes. Range: at least 1."""
    per_class: int | None = None
    """Most photos of a class: a photo whose classes all have as many is left out. Range: at least
    1.
    """
    tokens: int = 4
    """Single tokens of a region that are rows too. Range: at least 0."""


class RegionConfidence(TomlTable, frozen=True, kw_only=True):
    """How sure the head is of a region with highest cosine c and t tokens.

    A factor on the scale: (c / cosine) to the power -cosine_power, times t to the power size_power.
    """

    cosine: float
    """The highest cosine of a region at which the factor is 1. Range: 0.01 to 1."""
    cosine_power: float
    """How much less high cosines tell. Range: 0 to 1."""
    size_power: float
    """How much more large regions tell. Range: 0 to 1."""


class TeachStage(TomlTable, frozen=True, kw_only=True, tag_field="kind", tag="teach"):
    """The fit of taught names to labelled regions, on features of the frozen encoder.

    It is the last stage of a run. Its `kind` is teach.
    """

    name: str
    """Name of the stage; every name once."""
    vocabulary: str
    """File of taught names, one concept a line, synonyms after semicolons. Concepts that no source
    shows are left out.
    """
    sources: tuple[LabelSource, ...]
    """Labelled photos, one or more tables."""
    epochs: int = 10
    """Passes over the rows. Range: at least 1."""
    batch: int = 256
    """Rows of a step. Range: at least 1."""
    learning_rate: float = 2e-3
    """Highest learning rate of Adam. Range: above 0."""
    decay: float = 1e-4
    """Factor on the squares of the weights on a region's own features. Range: at least 0."""
    context_decay: float = 1e-3
    """The same for the features of the whole image. Range: at least 0."""
    context_dropout: float = 0.3
    """Share of the rows that do not see the features of the whole image. Range: 0 to below 1."""
    balance: float = 0.5
    """Rows weigh one over the rows of their concept, to this power. Range: 0 to 1."""
    replay: float = 1.0
    """Weight of the replay: photos of `[data.names]` keep the shares that ConSE gives its names.
    Range: at least 0.
    """
    sharpness: float = 40.0
    """Factor on cosines before the softmax that shares a name among concepts. Range: above 0."""
    centre: float = 0.85
    """Cosine with the nearest taught text at which the gate is half open. Range: 0 to 1."""
    slope: float = 30.0
    """Factor on the cosine in the gate. Range: above 0."""
    conse_scale: float = 20.0
    """Factor on ConSE's cosines in the joint scores. Range: above 0."""
    logit_scale: float = 200.0
    """Factor on the cosines of joint embeddings; larger ones keep embeddings shorter. Range: above
    0.
    """

    image_share: float = 0.5
    """Factor on the scores of whole images, which labelled regions teach less about. Range: 0 to 1.
    """
    untaught: float = 0.0
    """Logit that names far from all taught ones get in any picture. Range: at least 0."""
    confidence: float = 0.65
    """Factor on `logit_scale` in the probabilities that users see. Choose it by the calibration on
    held-back regions, which the stage reports. Range: above 0.
    """
    image_confidence: float = 1.0
    """Factor on the logit scale for names of whole images, which changes their shares and not their
    order. Choose it by photos of known names. Range: 0.001 to 1000.
    """
    region_confidence: RegionConfidence | None = None
    """How sure the head is of regions by their highest cosine and their size; without it, all have
    the scale above.
    """

    @property
    def length(self) -> int:
        """The number of epochs."""
        return self.epochs

    def scaled(self, scale: float) -> TeachStage:
        """Return the stage with `scale` times its epochs, at least one."""
        return msgspec.structs.replace(self, epochs=max(1, round(self.epochs * scale)))


Stage = TrainStage | StitchStage | TeachStage


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
    if isinstance(stage, TeachStage):
        _check_teach(stage)
        return
    _require(stage, (stage.steps is None) != (stage.epochs is None), "either steps or epochs")
    _require(stage, (stage.steps or stage.epochs or 0) > 0, "a length above 0")
    _require(stage, 0 < stage.stop <= 1, "stop above 0, up to 1")
    _require(stage, stage.learning_rate > 0, "learning_rate above 0")
    _require(stage, 0 <= stage.warmup < 1 and 0 <= stage.floor <= 1, "warmup, floor from 0 to 1")
    _require(stage, stage.ema is None or 0 < stage.ema < 1, "ema between 0 and 1")
    _require(stage, stage.clip_norm is None or stage.clip_norm > 0, "clip_norm above 0")
    _require(stage, stage.weight_decay >= 0, "weight_decay of at least 0")
    _require(stage, all(0 <= beta < 1 for beta in stage.betas), "betas from 0 to below 1")
    every = stage.evaluate_every
    _require(stage, every is None or every > 0, "evaluate_every above 0")
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


def _check_teach(stage: TeachStage) -> None:
    _require(stage, bool(stage.sources), "sources, labelled photos")
    _require(stage, min(stage.epochs, stage.batch) > 0, "epochs and batch above 0")
    _require(stage, stage.learning_rate > 0, "learning_rate above 0")
    least = min(stage.decay, stage.context_decay, stage.replay, stage.untaught)
    _require(stage, least >= 0, "decay, context_decay, replay and untaught of at least 0")
    _require(stage, 0 <= stage.image_share <= 1, "image_share from 0 to 1")
    _require(stage, 0 <= stage.context_dropout < 1, "context_dropout from 0 to below 1")
    _require(stage, min(stage.balance, stage.centre) >= 0, "balance and centre of at least 0")
    _require(stage, max(stage.balance, stage.centre) <= 1, "balance and centre up to 1")
    scales = (stage.sharpness, stage.slope, stage.conse_scale, stage.logit_scale, stage.confidence)
    _require(stage, min(scales) > 0, "sharpness, slope and scales above 0")
    _require(stage, 0.001 <= stage.image_confidence <= 1000, "image_confidence from 0.001 to 1000")
    if (sure := stage.region_confidence) is not None:
        within = 0.01 <= sure.cosine <= 1 and min(sure.cosine_power, sure.size_power) >= 0
        within = within and max(sure.cosine_power, sure.size_power) <= 1
        _require(stage, within, "region_confidence.cosine from 0.01 to 1, and powers from 0 to 1")
    for source in stage.sources:
        fits = source.size % LABEL_STEP == 0 and 64 <= source.size <= 4096
        _require(stage, fits, f"sizes of sources that are multiples of {LABEL_STEP}, 64 to 4096")
        _require(stage, min(source.licenses, default=0) >= 0, "licenses of at least 0")
        limits = (1 if n is None else n for n in (source.photos, source.per_class))
        _require(stage, min(limits) > 0 and source.tokens >= 0, "limits of sources above 0")


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
    for loss in (stage.mask_loss, stage.embed_loss):
        parts = [
            value for value in msgspec.structs.asdict(loss).values() if not isinstance(value, str)
        ]
        _require(stage, min(parts) >= 0, "parts of a loss of at least 0")
    drawn = stage.instance_loss
    _require(stage, drawn.points is None or drawn.points > 0, "instance_loss.points above 0")
    _require(stage, drawn.oversample >= 1, "instance_loss.oversample of at least 1")
    _require(stage, 0 <= drawn.uncertain <= 1, "instance_loss.uncertain from 0 to 1")


def _check_batch(stage: TrainStage, batch: Batch) -> None:
    """Check the numbers of a stream."""
    micro = 1 if batch.micro is None else batch.micro
    _require(stage, batch.batch > 0 and micro > 0, "batch and micro above 0")
    _require(stage, min(batch.views, batch.regions) >= 0, "views and regions of at least 0")
    _check_sizes(stage, batch.sizes)
    if isinstance(batch, MaskBatch | InstanceBatch):
        _require(stage, batch.prompts > 0, "prompts above 0")
        _require(stage, 0 <= batch.boxes <= 1, "boxes from 0 to 1")


def _check_sizes(stage: Stage, sizes: tuple[int, ...]) -> None:
    _require(stage, bool(sizes) and all(map(is_size, sizes)), f"sizes that are {SIZES}")


def is_size(size: int) -> bool:
    """Whether a model can take squares of this side, in pixels."""
    return size % PATCH == 0 and 64 <= size <= 4096


def _require(stage: Stage, fits: Any, expected: str) -> None:
    if not fits:
        raise ConfigError(f"stage {stage.name!r}: expected {expected}")
