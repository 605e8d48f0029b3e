"""The tables of a run's file except its stages: student, teachers, photos, classes, evaluation."""

from __future__ import annotations

from typing import Literal

import msgspec

from samclip.export.models.ovsam.model import OVSAM_CONFIGS

OTHER_SIZES = "ovsam"  # the model type of sizes that were not published
OVSAM_SIZE = 1024  # pixels, of the published models


class TomlTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base class of every table of the file.

    Defaults are left out of the JSON that a run's digest is taken from, so a new field does not
    change the digests of existing runs.
    """


class OvsamSizes(TomlTable, frozen=True, kw_only=True):
    """The sizes of an Open-Vocabulary SAM that is not one of the published ones.

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


class StudentConfig(TomlTable, frozen=True, kw_only=True):
    """The checkpoints that the student starts from, by path or by a packaged checkpoint's name.

    `checkpoint` is a SAM, MobileSAM or merged checkpoint; `clip_checkpoint` adds a trained CLIP
    head, `text_checkpoint` the text tower of the name teacher's space, whose activation
    `quick_gelu` says where no file next to its weights does. With a `recogniser` the student is a
    new model of type lite2: that classifier's backbone, which sees the image at its size divided by
    each number in `pyramid`, stitched to the MobileSAM `checkpoint`. None takes what the
    checkpoints say.

    `model_type` selects an Open-Vocabulary SAM: one of the published sizes, or `ovsam` with its
    `sizes`. `checkpoint` is then the SAM that provides the prompt encoder and the mask decoder,
    `clip_checkpoint` the CLIP ResNet that stays frozen (None: random weights, for a run that
    trains them), `text_checkpoint` a text tower other than CLIP's own, `sam2clip` a trained neck
    to start from.
    """

    checkpoint: str
    recogniser: str | None = None
    clip_checkpoint: str | None = None
    text_checkpoint: str | None = None
    quick_gelu: bool | None = None
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


class NameTeacherConfig(TomlTable, frozen=True, kw_only=True):
    """The teacher that embeds pictures in a text space.

    `conse`: the classifier `checkpoint`, whose classes have the names in the file `class_names`,
    embedded by `text_checkpoint`; the other fields are those of `ConseOptions`. `open_clip`: the
    image tower `model` of the open_clip library with the weights `checkpoint`; None takes the
    tables next to the weights. `vocabulary` is a file of names, one a line, on which an evaluation
    compares student and teacher, embedded by `text_checkpoint`; None takes the class names.
    `quick_gelu`: the text tower's activation, where no file next to its weights says it.
    """

    kind: Literal["conse", "open_clip"]
    checkpoint: str
    model: str | None = None
    text_checkpoint: str | None = None
    quick_gelu: bool | None = None
    class_names: str | None = None
    top_k: int | None = 10
    temperature: float = 1.0
    centre: bool = False
    framing: Literal["whole", "centre"] = "whole"
    templates: str | tuple[str, ...] | None = None
    vocabulary: str | None = None


class MaskTeacherConfig(TomlTable, frozen=True, kw_only=True):
    """The teacher of masks: the SAM or MobileSAM `checkpoint`."""

    kind: Literal["sam"] = "sam"
    checkpoint: str


class TeachersConfig(TomlTable, frozen=True, kw_only=True):
    """The two teachers; either may be left out where no stage needs it."""

    names: NameTeacherConfig | None = None
    masks: MaskTeacherConfig | None = None


class SourceConfig(TomlTable, frozen=True, kw_only=True):
    """Photos: `folders`, searched at every depth, and `shards`, tar files of WebDataset.

    A shard may be a pattern that matches several files, such as `cc12m/*.tar`. `exclude`: patterns,
    such as `val/*`, of paths within a folder that are left out. `longest`, in pixels: photos with a
    longer side may be decoded at reduced size, never below it.
    """

    folders: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    longest: int | None = None


class InstanceSourceConfig(SourceConfig, frozen=True, kw_only=True):
    """Photos whose objects are outlined and named: the JSON file `annotations`, in COCO's format.

    Its file names are paths within one of the `folders`. With None the teachers find and name the
    objects.
    """

    annotations: str | None = None


class LabelsConfig(TomlTable, frozen=True, kw_only=True):
    """The classes of instances, in the space of the student's text tower.

    `vocabulary` is a file of classes, one a line, each with its synonyms after semicolons; None
    takes the categories of the annotations. Instances of a class that is not listed have no name
    and train masks only. `templates`: a set's name, or the templates that names are put into.
    """

    vocabulary: str | None = None
    templates: str | tuple[str, ...] = "vild"


class DataConfig(TomlTable, frozen=True, kw_only=True):
    """The photos of each stream, and the share of them that is held back for evaluation.

    `cache` is the folder of the teachers' answers; None is a folder in the run's own.
    """

    names: SourceConfig | None = None
    masks: SourceConfig | None = None
    instances: InstanceSourceConfig | None = None
    holdout: float = 0.01
    cache: str | None = None


class EvaluationConfig(TomlTable, frozen=True, kw_only=True):
    """The evaluation on held-back photos: how many `photos`, at which `size`, how many regions.

    `size` None is the student's own; `regions` is the most regions of a photo that are compared.
    """

    photos: int = 60
    size: int | None = None
    regions: int = 24
