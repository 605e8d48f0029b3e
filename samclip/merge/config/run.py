"""The TOML file that describes a training run, read into frozen structs and checked.

The file has `name`, `seed` and other values of the whole run, then the tables `[student]`,
`[teachers.names]`, `[teachers.masks]`, `[data]`, `[labels]`, `[evaluation]` (see `tables.py`) and
`[[stages]]` (see `stages.py`). A missing key takes its default; a misspelt one is an error that
names the nearest known key.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from samclip.disk.safe_names import check_name
from samclip.disk.user_files import read_user_file
from samclip.errors import ConfigError, did_you_mean
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.merge.config.stages import (
    SIZES,
    STREAMS,
    Stage,
    StitchStage,
    StreamName,
    TeachStage,
    check_stage,
    is_size,
)
from samclip.merge.config.tables import (
    OTHER_SIZES,
    OVSAM_SIZE,
    DataConfig,
    EvaluationConfig,
    InstanceSourceConfig,
    LabelsConfig,
    SourceConfig,
    StudentConfig,
    TeachersConfig,
    TomlTable,
)

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its old name
    import tomli as tomllib

MAX_FILE_BYTES = 2**20
UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`(?: - at `([^`]+)`)?")


class RunConfig(TomlTable, frozen=True, kw_only=True):
    """A whole run."""

    name: str
    """Name of the run, and of its folder in `runs/`."""
    student: StudentConfig
    """The model that is trained."""
    teachers: TeachersConfig
    """The models that it is trained by."""
    data: DataConfig = DataConfig()
    """The photos."""
    stages: tuple[Stage, ...]
    """What is trained, in this order: one or more tables."""
    labels: LabelsConfig | None = None
    """Classes of instances, for stages that have some."""
    seed: int = 0
    """Seed of all that is drawn at random."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 on CUDA devices that compute in it, else fp32."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The evaluation on held-back photos."""
    save_every: int = 100
    """Steps between two writes of the run's state. Range: at least 1."""
    notes: str = ""
    """Text that is kept in the checkpoint and its bundles."""
    license: str = "unknown"
    """Licence that is recorded in the checkpoint and its bundles."""

    @property
    def digest(self) -> str:
        """The SHA-256 that identifies this run; a state continues only under the same digest."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def read_config(path: Path, steps_scale: float = 1.0, photos: Path | None = None) -> RunConfig:
    """Read a run's TOML file; `steps_scale` multiplies the length of every stage.

    `photos`: a folder that replaces those of every stream.

    Relative paths of folders and checkpoints stay relative to the working directory. Raises
    ConfigError with the file, the place in it and the remedy.
    """
    try:
        data = read_user_file(path, MAX_FILE_BYTES, "the file of a run", ConfigError)
        raw = tomllib.loads(data.decode("utf-8"))
    except ConfigError:  # is a ValueError, too
        raise
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}; correct it there") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply; the file of a training run needs three levels"
        ) from error
    config = parse_config(raw, str(path), photos)
    stages = tuple(stage.scaled(steps_scale) for stage in config.stages)
    return msgspec.structs.replace(config, stages=stages)


def parse_config(raw: dict[str, Any], file: str, photos: Path | None = None) -> RunConfig:
    """Convert and check a parsed file; `file` names it in messages. Raises ConfigError.

    `photos`: as in `read_config`.
    """
    stages = raw.get("stages")
    if isinstance(stages, list):  # the default of `kind`, which msgspec requires of a union
        with_kind = [{"kind": "train", **s} if isinstance(s, dict) else s for s in stages]
        raw = {**raw, "stages": with_kind}
    try:
        config = msgspec.convert(raw, RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}{_suggestion(str(error))}") from error
    except UnicodeEncodeError as error:  # a lone surrogate: not from TOML, but from other callers
        raise ConfigError(
            f"{file}: {error.object!a} is not valid text; write whole characters"
        ) from error
    try:
        if photos is not None:
            config = msgspec.structs.replace(config, data=_of_folder(config, photos))
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return config


def _suggestion(message: str) -> str:
    """Return the known key nearest to the unknown one in msgspec's message, or all known keys."""
    unknown = UNKNOWN_FIELD.search(message)
    if unknown is None:
        return ""
    fields = _fields(RunConfig)
    for name in re.findall(r"\.(\w+)", unknown[2] or ""):  # of a path such as $.stages[0].losses
        fields = _fields(fields[name])
    return did_you_mean(unknown[1], sorted(fields)) or f"; there are {', '.join(fields)}"


def _fields(kind: Any) -> dict[str, Any]:
    """Return the types of a struct's fields by name; those of all members for a union or list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for inner in getattr(kind, "__args__", ()):
        found |= _fields(inner)
    return found


def _of_folder(config: RunConfig, folder: Path) -> DataConfig:
    """Return the run's data with every stream that it needs from one folder.

    Raises ConfigError where a stage needs annotations, which a folder of photos does not have.
    """
    given = config.data.instances
    if given is not None and given.annotations is not None:
        raise ConfigError(
            f"[data.instances] has annotations, {given.annotations}, which the photos in {folder} "
            "lack; name the folder in that table, with its own annotations"
        )
    needed = {stream for stage in config.stages for stream in required_streams(stage)}
    folders = (str(folder),)
    return msgspec.structs.replace(
        config.data,
        names=SourceConfig(folders=folders) if "names" in needed else None,
        masks=SourceConfig(folders=folders) if "masks" in needed else None,
        instances=InstanceSourceConfig(folders=folders) if "instances" in needed else None,
    )


def _check(config: RunConfig) -> None:
    """Check the run's name, each stage, and that it has its teachers and photos."""
    check_name(config.name, "the run's name", ConfigError)
    names = [stage.name for stage in config.stages]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled:
        problem = f"two stages are called {doubled[0]!r}" if doubled else "there are no stages"
        raise ConfigError(f"{problem}; give [[stages]] with a name each, every name once")
    _check_numbers(config)
    annotated = config.data.instances is not None and bool(config.data.instances.annotations)
    for stage in config.stages:
        check_stage(stage)
        for teacher in required_teachers(stage, annotated):
            if getattr(config.teachers, teacher) is None:
                raise ConfigError(
                    f"stage {stage.name!r} needs [teachers.{teacher}]; add that table"
                )
        for stream in required_streams(stage):
            source = getattr(config.data, stream)
            if source is None or not (source.folders or source.shards):
                raise ConfigError(
                    f"stage {stage.name!r} needs photos: [data.{stream}] folders; name one or "
                    "more, or give --photos FOLDER"
                )
        _check_student(config, stage)
    if annotated and config.data.instances is not None and config.data.instances.shards:
        raise ConfigError(
            "[data.instances] has annotations and shards; give folders instead of the shards"
        )


def _check_numbers(config: RunConfig) -> None:
    """Check the numbers of all tables but the stages."""
    student, teacher, judged = config.student, config.teachers.names, config.evaluation
    sizes = {} if student.sizes is None else msgspec.structs.asdict(student.sizes)
    counts: dict[str, Any] = {
        "save_every": config.save_every,
        "evaluation.photos": judged.photos,
        "evaluation.regions": judged.regions,
        "student.head_pool": student.head_pool,
        "student.pyramid": min(student.pyramid, default=0),
        "teachers.names.top_k": None if teacher is None else teacher.top_k,
    }
    for name, value in sizes.items():
        counts[f"student.sizes.{name}"] = min(value) if isinstance(value, tuple) else value
    for stream in STREAMS:
        source: SourceConfig | None = getattr(config.data, stream)
        counts[f"data.{stream}.longest"] = None if source is None else source.longest
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected at least 1")
    if not 0 <= config.data.holdout < 1:
        raise ConfigError(f"data.holdout is {config.data.holdout}; expected 0 to below 1")
    if teacher is not None and not teacher.temperature > 0:
        raise ConfigError(f"teachers.names.temperature is {teacher.temperature}; expected above 0")
    for name, size in (
        ("student.image_size", student.image_size),
        ("evaluation.size", judged.size),
    ):
        if size is not None and not is_size(size):
            raise ConfigError(f"{name} is {size}; expected {SIZES}")


def _check_student(config: RunConfig, stage: Stage) -> None:
    """Check that the run's student can be trained by a stage."""
    student = config.student
    if isinstance(stage, TeachStage):
        if student.is_ovsam or len(config.stages) > 1:
            raise ConfigError(
                f"stage {stage.name!r} of kind teach is a run's only stage, for a student of "
                "model_type lite2; give the checkpoint of the other stages as student.checkpoint"
            )
        return
    if not student.is_ovsam:
        if required_streams(stage) and "instances" in required_streams(stage):
            raise ConfigError(
                f"stage {stage.name!r} trains on instances, which takes a student of model_type "
                f"{', '.join(OVSAM_CONFIGS)} or {OTHER_SIZES}"
            )
        return
    if (student.model_type == OTHER_SIZES) != (student.sizes is not None):
        raise ConfigError(
            f"[student] has model_type {student.model_type!r} and {'' if student.sizes else 'no '}"
            f"[student.sizes]; give sizes with model_type {OTHER_SIZES!r}, and only with it"
        )
    if isinstance(stage, StitchStage) or stage.losses.sam or stage.losses.region:
        raise ConfigError(
            f"stage {stage.name!r}: an Open-Vocabulary SAM is trained by the losses clip, embed, "
            "mask, dice and label"
        )
    if stage.instances is not None and config.labels is None:
        raise ConfigError(f"stage {stage.name!r} needs [labels]; add that table")
    size = student.image_size or OVSAM_SIZE
    own = [batch for batch in (stage.masks, stage.instances) if batch is not None]
    if any(batch.sizes != (size,) for batch in own):
        raise ConfigError(
            f"stage {stage.name!r}: masks and instances are trained at the student's own size, "
            f"{size}"
        )


def required_teachers(
    stage: Stage, annotated: bool = False
) -> tuple[Literal["names", "masks"], ...]:
    """Return the teachers that a stage needs; `annotated` instances need none."""
    if isinstance(stage, StitchStage):
        return ("masks",)
    if isinstance(stage, TeachStage):
        return ()
    losses = stage.losses
    both = bool(losses.region or (losses.instances and not annotated))
    names = bool(losses.clip or both)
    masks = bool(losses.sam or losses.embed or both)
    return (*(("names",) if names else ()), *(("masks",) if masks else ()))


def required_streams(stage: Stage) -> tuple[StreamName, ...]:
    """Return the streams of photos that a stage reads."""
    if isinstance(stage, StitchStage):
        return ("masks",)
    if isinstance(stage, TeachStage):
        return ("names",) if stage.replay else ()
    return tuple(stream for stream in STREAMS if getattr(stage, stream) is not None)
