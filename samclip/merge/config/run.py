"""The file that describes a training run: TOML, read into frozen structs, every mistake named.

`name`, `seed`, then the tables `[student]`, `[teachers.names]`, `[teachers.masks]`, `[data]`,
`[labels]`, `[evaluation]` (see `tables.py`) and `[[stages]]` (`stages.py`). What a file leaves out
takes its default; a misspelt key is an error that names the nearest one.
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
from samclip.merge.config.stages import (
    STREAMS,
    Settings,
    Stage,
    StitchStage,
    StreamName,
    TrainStage,
    check_stage,
)
from samclip.merge.config.tables import (
    OTHER_SIZES,
    OVSAM_SIZE,
    DataConfig,
    EvaluationConfig,
    InstanceSourceConfig,
    LabelsConfig,
    MaskTeacherConfig,
    NameTeacherConfig,
    OvsamSizes,
    SourceConfig,
    StudentConfig,
    TeachersConfig,
)
from samclip.merge.data.views import ViewOptions

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its old name
    import tomli as tomllib

UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`(?: - at `([^`]+)`)?")


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
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} is no valid TOML: {error}; correct it there") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply for a training run's file; it needs three levels"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; give the TOML file of a run"
        ) from error
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
                raise ConfigError(f"stage {stage.name!r} needs [teachers.{what}]; add that table")
        for stream in streams(stage):
            source = getattr(config.data, stream)
            if source is None or not (source.folders or source.shards):
                raise ConfigError(
                    f"stage {stage.name!r} needs photos: [data.{stream}] folders; name one or more"
                )
        _check_kind(config, stage)
    if annotated and config.data.instances is not None and config.data.instances.shards:
        raise ConfigError(
            "[data.instances] has annotations and shards; give folders in place of the shards"
        )


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
        raise ConfigError(
            f"[student] has model_type {student.model_type!r} and {'' if student.sizes else 'no '}"
            f"[student.sizes]; sizes belong to model_type {OTHER_SIZES!r}, and to it alone"
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
