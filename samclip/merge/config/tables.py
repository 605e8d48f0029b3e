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
    """The sizes of an Open-Vocabulary SAM that is not one of the published ones."""

    width: int
    """Channels of the CLIP ResNet after its stem. Range: at least 1."""
    depths: tuple[int, int, int, int]
    """Bottlenecks in each of the ResNet's four stages. Range: at least 1, each."""
    pool_grid: int
    """Side of the last map at the size that CLIP was trained at. Range: at least 1."""
    neck_width: int
    """Channels of the neck between CLIP and SAM. Range: at least 1."""
    neck_depth: int
    """Transformer blocks of the neck. Range: at least 1."""
    neck_heads: int
    """Attention heads of each block. Range: at least 1."""
    neck_window: int = 14
    """Side of the windows that blocks attend within, in tokens. Range: at least 1."""
    fpn_channels: int = 256
    """Channels of the feature pyramid that regions are classified from. Range: at least 1."""


class StudentConfig(TomlTable, frozen=True, kw_only=True):
    """The checkpoints that the student starts from, by path or by a packaged checkpoint's name."""

    checkpoint: str
    """SAM, MobileSAM or merged checkpoint. For an Open-Vocabulary SAM, the SAM that provides prompt
    encoder and mask decoder.
    """
    recogniser: str | None = None
    """Classifier whose backbone a new student of type lite2 has, stitched to the MobileSAM
    `checkpoint`.
    """
    clip_checkpoint: str | None = None
    """Trained CLIP head to add. For an Open-Vocabulary SAM, the CLIP ResNet that stays frozen;
    without it the ResNet has random weights, for a run that trains them.
    """
    text_checkpoint: str | None = None
    """Text tower of the name teacher's space; without it, what the checkpoints hold."""
    quick_gelu: bool | None = None
    """Whether the text tower's activation is QuickGELU, where no file next to its weights says it.
    """
    model_type: str | None = None
    """`ovsam-rn50`, `ovsam-rn50x16`, or `ovsam` with `sizes`: an Open-Vocabulary SAM; `vit_b`,
    `vit_l`, `vit_h`, `vit_t` or `lite2` where the checkpoint does not say it.
    """
    image_size: int | None = None
    """Side of the square image that the student takes, in pixels; without it, what the checkpoint
    says, and 1024 with a `recogniser`. Range: multiples of 16 from 64 to 4096.
    """
    head_pool: int | None = None
    """Side of the squares of tokens that the CLIP head averages before it; without it, what the
    checkpoint says. Range: at least 1.
    """
    pyramid: tuple[int, ...] = (1, 2, 4)
    """Divisors of the image size at which the `recogniser` sees the image. Range: at least 1, each.
    """
    sam2clip: str | None = None
    """Trained neck of an Open-Vocabulary SAM to start from."""
    sizes: OvsamSizes | None = None
    """Sizes of a student of `model_type` ovsam."""

    @property
    def is_ovsam(self) -> bool:
        """Whether the student is an Open-Vocabulary SAM."""
        return self.model_type in (OTHER_SIZES, *OVSAM_CONFIGS)


class NameTeacherConfig(TomlTable, frozen=True, kw_only=True):
    """The teacher that embeds pictures in a text space."""

    kind: Literal["conse", "open_clip"]
    """`conse`: a classifier, whose probabilities weigh the embeddings of its class names.
    `open_clip`: an image tower of the open_clip library, or of a CLIPModel or SiglipModel folder.
    """
    checkpoint: str
    """Weights of the classifier or of the image tower, by path or by a packaged checkpoint's name.
    """
    model: str | None = None
    """Name of the image tower in open_clip; without it, the tables next to the weights."""
    text_checkpoint: str | None = None
    """Text tower that embeds class names and the `vocabulary`."""
    quick_gelu: bool | None = None
    """Whether the text tower's activation is QuickGELU, where no file next to its weights says it.
    """
    class_names: str | None = None
    """Names of the classifier's classes: a file with one a line; without it, ImageNet's."""
    top_k: int | None = 10
    """Most probable classes that `conse` counts. The paper tries 1, 10 and 1,000. TOML cannot say
    none: give the number of classes for all. Range: at least 1.
    """
    temperature: float = 1.0
    """Divisor of the logits of `conse`; the paper has none, which is 1. Range: above 0."""
    centre: bool = False
    """Whether the mean of all class embeddings is subtracted from each of them."""
    framing: Literal["whole", "centre"] = "whole"
    """What `conse` sees of a picture: its `whole`, squeezed to a square, or the `centre`."""
    templates: str | tuple[str, ...] | None = None
    """Sentences that class names are put into: a set's name, or a list with {} in each; without it,
    `["{}", "a photo of a {}."]`.
    """
    vocabulary: str | None = None
    """File of names, one a line, on which an evaluation compares student and teacher; without it,
    the class names.
    """


class MaskTeacherConfig(TomlTable, frozen=True, kw_only=True):
    """The teacher of masks."""

    kind: Literal["sam"] = "sam"
    """Kind of the teacher."""
    checkpoint: str
    """SAM or MobileSAM checkpoint, by path or by a packaged checkpoint's name."""


class TeachersConfig(TomlTable, frozen=True, kw_only=True):
    """The two teachers; either may be left out where no stage needs it."""

    names: NameTeacherConfig | None = None
    """Teacher of names."""
    masks: MaskTeacherConfig | None = None
    """Teacher of masks."""


class SourceConfig(TomlTable, frozen=True, kw_only=True):
    """Photos: folders, and tar files of WebDataset."""

    folders: tuple[str, ...] = ()
    """Folders of photos, searched at every depth; hidden ones are left out."""
    shards: tuple[str, ...] = ()
    """Tar files of WebDataset; a pattern such as `cc12m/*.tar` may match several."""
    exclude: tuple[str, ...] = ()
    """Patterns, such as `val/*`, of paths within a folder that are left out."""
    longest: int | None = None
    """Pixels; photos with a longer side may be decoded at reduced size, never below it. Range: at
    least 1.
    """


class InstanceSourceConfig(SourceConfig, frozen=True, kw_only=True):
    """Photos whose objects are outlined and named."""

    annotations: str | None = None
    """JSON file in COCO's format, whose file names are paths within one of the `folders`; without
    it, the teachers find and name the objects.
    """


class LabelsConfig(TomlTable, frozen=True, kw_only=True):
    """The classes of instances, in the space of the student's text tower."""

    vocabulary: str | None = None
    """File of classes, one a line, each with its synonyms after semicolons; without it, the
    categories of the annotations. Instances of other classes train masks only.
    """
    templates: str | tuple[str, ...] = "vild"
    """Sentences that names are put into: a set's name, or a list with {} in each."""


class DataConfig(TomlTable, frozen=True, kw_only=True):
    """The photos of each stream. `--photos FOLDER` replaces the streams."""

    names: SourceConfig | None = None
    """Photos for the losses `clip` and `region`."""
    masks: SourceConfig | None = None
    """Photos for the losses `sam`, `embed` and `region`, and of stages of kind stitch."""
    instances: InstanceSourceConfig | None = None
    """Photos for the losses `mask`, `dice` and `label`."""
    holdout: float = 0.01
    """Share of the photos that is never trained on and that evaluations use. Range: 0 to below 1.
    """
    cache: str | None = None
    """Folder of the teachers' answers; without it, `cache` in the run's own folder."""


class EvaluationConfig(TomlTable, frozen=True, kw_only=True):
    """The evaluation on held-back photos."""

    photos: int = 60
    """Most photos that are evaluated. Range: at least 1."""
    size: int | None = None
    """Side of the square image, in pixels; without it, the student's own. Range: multiples of 16
    from 64 to 4096.
    """
    regions: int = 24
    """Most regions of a photo that are compared. Range: at least 1."""
