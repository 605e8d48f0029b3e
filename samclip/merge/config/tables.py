"""The tables of a run's file but for its stages: student, teachers, photos, classes and so on."""

from __future__ import annotations

from typing import Literal

from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.merge.config.stages import Settings

OTHER_SIZES = "ovsam"  # the model type of sizes that were not published
OVSAM_SIZE = 1024  # pixels, of the published models


class OvsamSizes(Settings, frozen=True, kw_only=True):
    """The sizes of an Open-Vocabulary SAM that is none of the published ones.

    `width`, `depths` and `pool_grid` are those of CLIP's ResNet, as in `ResNetConfig`; `neck_*`
    those of the neck, as in `NeckConfig`.
    """

    width: int
    depths: tuple[int, int, int, int]
    pool_grid: int
    neck_width: int
    neck_depth: int
    neck_heads: int
    neck_window: int = 14
    fpn_channels: int = 256


class StudentConfig(Settings, frozen=True, kw_only=True):
    """Where the student starts: checkpoints by path, or by a packaged checkpoint's name.

    `checkpoint` is a SAM, MobileSAM or merged one; `clip_checkpoint` brings a trained CLIP head,
    `text_checkpoint` the text tower of the name teacher's space. With a `recogniser` the student
    is a new one of model type lite2: that classifier's backbone, looking at the image at the
    divisors `pyramid` of its size, stitched to the MobileSAM `checkpoint`. None takes what the
    checkpoints say.

    An Open-Vocabulary SAM is asked for by its `model_type`, one of the published sizes, or `ovsam`
    with its `sizes`. `checkpoint` is then the SAM that prompts and masks are from,
    `clip_checkpoint` the CLIP ResNet that stays frozen (None: random, for a stage that teaches it),
    `text_checkpoint` another text tower than CLIP's own; `sam2clip` a trained neck to begin with.
    """

    checkpoint: str
    recogniser: str | None = None
    clip_checkpoint: str | None = None
    text_checkpoint: str | None = None
    model_type: str | None = None
    image_size: int | None = None
    head_pool: int | None = None
    pyramid: tuple[int, ...] = (1, 2, 4)
    sam2clip: str | None = None
    sizes: OvsamSizes | None = None

    @property
    def is_ovsam(self) -> bool:
        """Whether the student is an Open-Vocabulary SAM."""
        return self.model_type in (OTHER_SIZES, *OVSAM_CONFIGS)


class NameTeacherConfig(Settings, frozen=True, kw_only=True):
    """Who says what a picture shows.

    `conse`: the classifier `checkpoint`, whose classes have the names in the file `class_names`,
    embedded by `text_checkpoint`; the other fields are those of `ConseOptions`. `open_clip`: the
    image tower `model` of the open_clip library with the weights `checkpoint`; None takes the
    tables beside them. `vocabulary` is a file of names, one a line, on which an evaluation compares
    student and teacher, embedded by `text_checkpoint`; None takes the class names.
    """

    kind: Literal["conse", "open_clip"]
    checkpoint: str
    model: str | None = None
    text_checkpoint: str | None = None
    class_names: str | None = None
    top_k: int | None = 10
    temperature: float = 1.0
    centre: bool = False
    framing: Literal["whole", "centre"] = "whole"
    templates: str | tuple[str, ...] | None = None
    vocabulary: str | None = None


class MaskTeacherConfig(Settings, frozen=True, kw_only=True):
    """Who says what masks are: the SAM or MobileSAM `checkpoint`."""

    kind: Literal["sam"] = "sam"
    checkpoint: str


class TeachersConfig(Settings, frozen=True, kw_only=True):
    """The two teachers; a run whose stages need but one may leave out the other."""

    names: NameTeacherConfig | None = None
    masks: MaskTeacherConfig | None = None


class SourceConfig(Settings, frozen=True, kw_only=True):
    """Photos: `folders` searched at every depth, and `shards`, tar files of webdataset.

    A shard may be a pattern that stands for several, as `cc12m/*.tar`.
    `exclude`: patterns, as `val/*`, of paths within a folder that are left out. `longest`: photos
    with a longer side are made smaller as they are read, in pixels.
    """

    folders: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    longest: int | None = None


class InstanceSourceConfig(SourceConfig, frozen=True, kw_only=True):
    """Photos whose objects are outlined and named: the JSON file `annotations`, in COCO's format.

    Its file names are paths within one of the `folders`. None lets the teachers find and name the
    objects.
    """

    annotations: str | None = None


class LabelsConfig(Settings, frozen=True, kw_only=True):
    """The classes that instances are told apart by, in the space of the student's text tower.

    `vocabulary` is a file of classes, one a line, its synonyms after semicolons; None takes the
    categories of the annotations. Instances of a class that is not listed have no name, and count
    for the masks alone. `templates`: a set's name, or the templates that names are put into.
    """

    vocabulary: str | None = None
    templates: str | tuple[str, ...] = "vild"


class DataConfig(Settings, frozen=True, kw_only=True):
    """The photos of each stream, and the share of them that is held back for evaluation.

    `cache` is the folder of the teachers' answers; None stands for the run's own.
    """

    names: SourceConfig | None = None
    masks: SourceConfig | None = None
    instances: InstanceSourceConfig | None = None
    holdout: float = 0.01
    cache: str | None = None


class EvaluationConfig(Settings, frozen=True, kw_only=True):
    """How held-back photos are judged: how many `photos`, at which `size`, up to how many regions.

    `size` None is the student's own.
    """

    photos: int = 60
    size: int | None = None
    regions: int = 24
