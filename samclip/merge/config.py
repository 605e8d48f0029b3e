"""The file that describes a training run: TOML, read into frozen structs, every mistake named.

`name`, `seed`, then the tables `[student]`, `[teachers.names]`, `[teachers.masks]`, `[data]`,
`[labels]`, `[[stages]]` (see `samclip/merge/stages.py`) and `[evaluation]`. What a file leaves out
takes the defaults below; a misspelt key is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from samclip.errors import ConfigError
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.merge.stages import (
    STREAMS,
    Settings,
    Stage,
    StitchStage,
    StreamName,
    TrainStage,
    check_stage,
)
from samclip.merge.views import ViewOptions

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its old name
    import tomli as tomllib

OTHER_SIZES = "ovsam"  # the model type of sizes that were not published
OVSAM_SIZE = 1024  # pixels, of the published models
UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`(?: - at `([^`]+)`)?")


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


class RunConfig(Settings, frozen=True, kw_only=True):
    """A whole run. `precision` auto is bf16 on CUDA devices that have it, else fp32."""

    name: str
    student: StudentConfig
    teachers: TeachersConfig
    data: DataConfig
    stages: tuple[Stage, ...]
    labels: LabelsConfig | None = None
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    evaluation: EvaluationConfig = EvaluationConfig()
    save_every: int = 100
    notes: str = ""
    license: str = "unknown"

    @property
    def digest(self) -> str:
        """SHA-256 that tells this run from others: a state continues under the same one only."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def read_config(path: Path, steps_scale: float = 1.0) -> RunConfig:
    """Read a run's TOML file; `steps_scale` stretches or shortens every stage.

    Relative paths of folders and checkpoints are left as they are: relative to where the command
    runs. Raises ConfigError, naming the file, the place in it and the remedy.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply for a training run's file; it needs three levels"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    config = parse_config(raw, str(path))
    stages = tuple(stage.scaled(steps_scale) for stage in config.stages)
    return msgspec.structs.replace(config, stages=stages)


def parse_config(raw: dict[str, Any], file: str) -> RunConfig:
    """Check and convert a parsed file; raises ConfigError. `file` names it in messages."""
    stages = raw.get("stages")
    if isinstance(stages, list):  # a stage trains unless it says otherwise
        raw = {**raw, "stages": [_with_kind(stage) for stage in stages]}
    try:
        config = msgspec.convert(raw, RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}{_suggestion(str(error))}") from error
    except UnicodeEncodeError as error:  # half a character: TOML has none, other callers may
        raise ConfigError(f"{file}: {error.object!a} is no text; write whole characters") from error
    try:
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return config


def _with_kind(stage: Any) -> Any:
    return {"kind": "train", **stage} if isinstance(stage, dict) else stage


def _suggestion(message: str) -> str:
    """Name the key nearest to an unknown one, of those that its table knows."""
    unknown = UNKNOWN_FIELD.search(message)
    if unknown is None:
        return ""
    fields = _fields_at(re.findall(r"\.(\w+)", unknown[2] or ""))
    near = difflib.get_close_matches(unknown[1], sorted(fields), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(fields)}"


def _fields_at(path: Sequence[str]) -> dict[str, Any]:
    """Find the fields, with their types, of the table that a file has at `path`."""
    fields = _fields(RunConfig)
    for name in path:
        fields = _fields(fields[name])
    return fields


def _fields(kind: Any) -> dict[str, Any]:
    """List the fields of a struct, or of those among which a union or a list chooses."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for inner in getattr(kind, "__args__", ()):
        found |= _fields(inner)
    return found


def _check(config: RunConfig) -> None:
    """Check what types cannot say: each stage, and that it has its teachers and photos."""
    names = [stage.name for stage in config.stages]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled:
        said = f"two stages are called {doubled[0]!r}" if doubled else "there are no stages"
        raise ConfigError(f"{said}; give [[stages]] with a name each, every name once")
    if not 0 <= config.data.holdout < 1:
        raise ConfigError(f"data.holdout is {config.data.holdout}; expected 0 to below 1")
    annotated = config.data.instances is not None and bool(config.data.instances.annotations)
    for stage in config.stages:
        check_stage(stage)
        for what in needs(stage, annotated):
            if getattr(config.teachers, what) is None:
                raise ConfigError(f"stage {stage.name!r} needs [teachers.{what}]")
        for stream in streams(stage):
            source = getattr(config.data, stream)
            if source is None or not (source.folders or source.shards):
                raise ConfigError(f"stage {stage.name!r} needs photos: [data.{stream}] folders")
        _check_kind(config, stage)
    if annotated and config.data.instances is not None and config.data.instances.shards:
        raise ConfigError("[data.instances] with annotations takes folders, not shards")


def _check_kind(config: RunConfig, stage: Stage) -> None:
    """Check that a stage is one for the student that the run has."""
    student = config.student
    if not student.is_ovsam:
        if streams(stage) and "instances" in streams(stage):
            raise ConfigError(
                f"stage {stage.name!r} trains on instances, which takes a student of model_type "
                f"{', '.join(OVSAM_CONFIGS)} or {OTHER_SIZES}"
            )
        return
    if (student.model_type == OTHER_SIZES) != (student.sizes is not None):
        raise ConfigError(f"[student.sizes] and model_type {OTHER_SIZES!r} go together")
    if isinstance(stage, StitchStage) or stage.losses.sam or stage.losses.region:
        raise ConfigError(
            f"stage {stage.name!r}: an Open-Vocabulary SAM is trained by the losses clip, embed, "
            "mask, dice and label"
        )
    if stage.instances is not None and config.labels is None:
        raise ConfigError(f"stage {stage.name!r} needs [labels]")
    size = student.image_size or OVSAM_SIZE
    own = [batch for batch in (stage.masks, stage.instances) if batch is not None]
    if any(batch.sizes != (size,) for batch in own):
        raise ConfigError(
            f"stage {stage.name!r}: masks and instances are trained at the student's own size, "
            f"{size}"
        )


def needs(stage: Stage, annotated: bool = False) -> tuple[Literal["names", "masks"], ...]:
    """Tell which teachers a stage asks; `annotated` instances need none."""
    if isinstance(stage, StitchStage):
        return ("masks",)
    losses = stage.losses
    both = bool(losses.region or (losses.instances and not annotated))
    names = bool(losses.clip or both)
    masks = bool(losses.sam or losses.embed or both)
    return (*(("names",) if names else ()), *(("masks",) if masks else ()))


def streams(stage: Stage) -> tuple[StreamName, ...]:
    """Tell which streams of photos a stage reads."""
    if isinstance(stage, StitchStage):
        return ("masks",)
    return tuple(stream for stream in STREAMS if getattr(stage, stream) is not None)


__all__ = [
    "DataConfig",
    "EvaluationConfig",
    "InstanceSourceConfig",
    "LabelsConfig",
    "MaskTeacherConfig",
    "NameTeacherConfig",
    "OvsamSizes",
    "RunConfig",
    "SourceConfig",
    "Stage",
    "StitchStage",
    "StudentConfig",
    "TeachersConfig",
    "TrainStage",
    "ViewOptions",
    "needs",
    "parse_config",
    "read_config",
    "streams",
]
