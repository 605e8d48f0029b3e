"""Factories from a run's configuration: its devices, photos, teachers and student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn

from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.errors import ConfigError, InputError, TrainingError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.fetch import resolve_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.text_source import read_text
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble
from samclip.export.families.ovsam_assembly import (
    OvsamAssembly,
    OvsamFiles,
    assemble_ovsam,
    is_ovsam,
    read_ovsam,
)
from samclip.export.families.stitched import assemble_stitched
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, OvsamConfig
from samclip.export.models.ovsam.sam2clip import NeckConfig
from samclip.export.rebuilding.bundle_checkpoint import find_bundle_folder, read_bundle_checkpoint
from samclip.merge.config.run import RunConfig
from samclip.merge.config.stages import STREAMS, StreamName
from samclip.merge.config.tables import (
    OTHER_SIZES,
    OVSAM_SIZE,
    DataConfig,
    InstanceSourceConfig,
    LabelsConfig,
    NameTeacherConfig,
    SourceConfig,
    StudentConfig,
)
from samclip.merge.data.annotations import Annotations, read_annotations
from samclip.merge.data.labels import TEMPLATES, Labels, embed_labels, embed_names
from samclip.merge.data.photo_sources import (
    FolderSource,
    JoinedSource,
    PhotoSource,
    split,
)
from samclip.merge.data.shards import ShardSource
from samclip.merge.students.base import Learner
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.students.ovsam_student import OvsamStudent
from samclip.merge.teachers.base import MaskTeacher, NameTeacher
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.teachers.conse import Conse, ConseOptions
from samclip.merge.teachers.sam import Sam

Sources = dict[StreamName, PhotoSource]

MAX_NAMES_BYTES = 10_000_000  # of a list of names
TIMEOUT = timedelta(days=1)  # of processes that wait while the first one evaluates


def make_accelerator(config: RunConfig) -> Accelerator:
    """Make the accelerator for the devices and processes that this process was launched with.

    `auto` precision is bf16 on CUDA devices that compute in it. On CPUs it is fp32, because some
    CPUs advertise bf16 instructions that their virtual machine does not allow.
    """
    cuda = torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    return Accelerator(
        cpu=not cuda,
        mixed_precision="no" if precision == "fp32" else "bf16",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


def require_devices(processes: int) -> None:
    """Raise TrainingError where there are GPUs, but too few for one process each."""
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise TrainingError(
            f"{processes} processes need a GPU each, and this machine has "
            f"{torch.cuda.device_count()}; give --processes {torch.cuda.device_count()}, or hide "
            "the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def make_annotations(config: InstanceSourceConfig | None) -> Annotations | None:
    """Read the annotations of the instances' photos; None where these are not annotated.

    Raises InputError for folders and files that are missing or do not belong together.
    """
    if config is None or config.annotations is None:
        return None
    folders = [FolderSource(name, config.exclude, config.longest) for name in config.folders]
    return read_annotations(user_path(config.annotations, "the annotations"), folders)


def make_labels(
    config: LabelsConfig | None, student: StudentConfig, annotations: Annotations | None
) -> Labels | None:
    """Embed the classes of instances by the student's text tower; None where there are none.

    Raises ConfigError where neither a vocabulary nor annotations define the classes.
    """
    tower = student.text_checkpoint or student.clip_checkpoint
    if config is None or tower is None:
        return None
    if config.vocabulary is not None:
        lines = read_lines(config.vocabulary)
    elif annotations is not None:
        lines = annotations.categories
    else:
        raise ConfigError(
            "instances without annotations need [labels] vocabulary, a file with one class a line"
        )
    text = read_text(read_checkpoint(resolve_checkpoint(tower)), student.quick_gelu)
    return embed_labels(lines, text, config.templates)


def make_sources(
    config: DataConfig, seed: int, annotations: Annotations | None = None
) -> tuple[Sources, Sources]:
    """Open the photos of all streams, split into those to train on and those held back.

    `annotations` are those of the instances' stream, which then has only the annotated photos.
    Raises InputError for folders that are missing or without photos.
    """
    train: Sources = {}
    held: Sources = {}
    opened: dict[SourceConfig, tuple[PhotoSource, PhotoSource]] = {}
    for name in STREAMS:
        source: SourceConfig | None = getattr(config, name)
        if source is None:
            continue
        if source not in opened:
            if annotations is not None and name == "instances":
                photos = annotations.photos
            else:
                photos = open_source(source)
            opened[source] = split(photos, config.holdout, seed)
        train[name], held[name] = opened[source]
    return train, held


def open_source(config: SourceConfig) -> PhotoSource:
    """Open folders and shards as one source."""
    parts: list[PhotoSource] = [
        FolderSource(folder, config.exclude, config.longest) for folder in config.folders
    ]
    if config.shards:
        parts.append(ShardSource(expand_shards(config.shards), config.longest))
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """List the files that match `patterns` such as `cc12m/*.tar`, sorted within each pattern.

    Raises InputError for a pattern without a match.
    """
    files: list[str] = []
    for pattern in patterns:
        path = user_path(pattern, "the shard")
        if not any(sign in pattern for sign in "*?["):
            files.append(str(path))
            continue
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found:
            raise InputError(f"no shard matches {pattern}; give tar files that exist")
        files += map(str, found)
    return files


def make_teachers(config: RunConfig, cache: Path, device: torch.device) -> Teachers:
    """Make the teachers of the configuration, with the annotations."""
    names, masks = config.teachers.names, config.teachers.masks
    annotations = make_annotations(config.data.instances)

    def mask_checkpoint() -> Path:
        if masks is None:
            raise ConfigError("this run has no teacher of masks; add [teachers.masks] to its file")
        return resolve_checkpoint(masks.checkpoint)

    def masks_at(size: int) -> MaskTeacher:
        return Sam(mask_checkpoint(), size, device)

    def mask_encoder() -> nn.Module:
        model = assemble(Checkpoints(mask_checkpoint())).model
        return fold_batch_norms(model.image_encoder).to(device)

    return Teachers(
        names=None if names is None else make_name_teacher(names, device),
        masks_at=None if masks is None else masks_at,
        mask_encoder=mask_encoder,
        cache=cache,
        device=device,
        labels=make_labels(config.labels, config.student, annotations),
        annotations=annotations,
    )


def make_name_teacher(config: NameTeacherConfig, device: torch.device) -> NameTeacher:
    """Make the teacher of names. Raises ConfigError when its table lacks a key."""
    weights = resolve_checkpoint(config.checkpoint)
    if config.kind == "open_clip":
        from samclip.merge.teachers.open_clip import OpenClip  # noqa: PLC0415 - an optional package

        return OpenClip(config.model, weights, device)
    if config.text_checkpoint is None:
        raise ConfigError("[teachers.names] of kind conse needs text_checkpoint")
    names = imagenet_names() if config.class_names is None else read_lines(config.class_names)
    options = ConseOptions(
        top_k=config.top_k,
        temperature=config.temperature,
        centre=config.centre,
        framing=config.framing,
        templates=TEMPLATES if config.templates is None else config.templates,
    )
    return Conse(
        classifier=weights,
        text=resolve_checkpoint(config.text_checkpoint),
        class_names=names,
        options=options,
        device=device,
        quick_gelu=config.quick_gelu,
    )


def make_vocabulary(config: NameTeacherConfig, teacher: NameTeacher) -> Tensor:
    """Embed the names on which student and teacher are compared: KxD.

    Raises ConfigError when the configuration does not define them.
    """
    if config.vocabulary is None and isinstance(teacher, Conse):
        return teacher.class_embeddings
    if config.vocabulary is None or config.text_checkpoint is None:
        raise ConfigError(
            "an evaluation compares names: [teachers.names] needs vocabulary, a file with one name "
            "a line, and text_checkpoint"
        )
    weights = read_checkpoint(resolve_checkpoint(config.text_checkpoint))
    tower = read_text(weights, config.quick_gelu)
    return embed_names(read_lines(config.vocabulary), tower)


def read_lines(file: str) -> tuple[str, ...]:
    """Read the lines of a file that are not blank. Raises TrainingError, InputError for no path."""
    data = read_user_file(
        user_path(file, "the list of names"), MAX_NAMES_BYTES, "the list of names", TrainingError
    )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrainingError(f"the names in {file} cannot be read: {error}") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def make_student(config: StudentConfig) -> Assembly | OvsamAssembly:
    """Assemble the student from its checkpoints. Raises CheckpointError."""
    if config.is_ovsam:
        return _make_ovsam(config)
    if (folder := find_bundle_folder(config.checkpoint)) is not None:
        return assemble(Checkpoints(read_bundle_checkpoint(folder).checkpoint))
    main = resolve_checkpoint(config.checkpoint)
    text = resolve_checkpoint(config.text_checkpoint) if config.text_checkpoint else None
    if config.recogniser is not None:
        recogniser = resolve_checkpoint(config.recogniser)
        size = 1024 if config.image_size is None else config.image_size
        return assemble_stitched(
            recogniser=recogniser,
            sam=main,
            text=text,
            image_size=size,
            pyramid=config.pyramid,
            quick_gelu=config.quick_gelu,
        )
    clip = resolve_checkpoint(config.clip_checkpoint) if config.clip_checkpoint else None
    files = Checkpoints(main, clip, text)
    return assemble(
        files, config.model_type, config.image_size, config.head_pool, config.quick_gelu
    )


def _make_ovsam(config: StudentConfig) -> OvsamAssembly:
    """Assemble an Open-Vocabulary SAM for its training."""
    names = (config.clip_checkpoint, config.text_checkpoint, config.sam2clip)
    clip, text, sam2clip = (None if name is None else resolve_checkpoint(name) for name in names)
    files = OvsamFiles(resolve_checkpoint(config.checkpoint), clip, text, sam2clip)
    model_type = config.model_type or OTHER_SIZES
    published = OVSAM_CONFIGS.get(model_type)
    if published is not None:
        model_config = published
    elif config.sizes is not None:
        sizes = config.sizes
        weights = read_checkpoint(text or clip or files.sam)
        tower = read_text(weights, config.quick_gelu).config
        model_config = OvsamConfig(
            backbone=ResNetConfig(
                width=sizes.width,
                depths=sizes.depths,
                embed_dim=tower.embed_dim,
                pool_grid=sizes.pool_grid,
            ),
            text_tower=tower,
            neck=NeckConfig(
                width=sizes.neck_width,
                depth=sizes.neck_depth,
                num_heads=sizes.neck_heads,
                window_size=sizes.neck_window,
            ),
            fpn_channels=sizes.fpn_channels,
        )
    else:
        raise ConfigError(f"model_type {OTHER_SIZES!r} needs [student.sizes]")
    size = config.image_size or OVSAM_SIZE
    sized = replace(model_config, image_size=size)
    return assemble_ovsam(files, model_type, sized, config.quick_gelu)


def make_learner(assembly: Assembly | OvsamAssembly) -> Learner:
    """Make the student of an assembly that is already on its device."""
    return MergedStudent(assembly) if isinstance(assembly, Assembly) else OvsamStudent(assembly)


def read_student(checkpoint: Path) -> Assembly | OvsamAssembly:
    """Read the checkpoint that a run wrote. Raises CheckpointError."""
    if is_ovsam(checkpoint):
        return read_ovsam(checkpoint)
    return assemble(Checkpoints(checkpoint))
