"""The model that a run trains, from its checkpoints, or from what an earlier run wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from samclip.errors import ConfigError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.fetch import resolve_checkpoint
from samclip.export.checkpoints.text_source import TextSource, read_text
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble
from samclip.export.families.ovsam_assembly import (
    OvsamAssembly,
    OvsamFiles,
    assemble_ovsam,
    is_ovsam,
    read_ovsam,
)
from samclip.export.families.stitched import assemble_stitched
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, OvsamConfig
from samclip.export.models.ovsam.sam2clip import NeckConfig
from samclip.merge.config import StudentConfig
from samclip.merge.learner import Learner
from samclip.merge.ovsam_student import OvsamStudent
from samclip.merge.student import Student
from samclip.merge.tables import OTHER_SIZES, OVSAM_SIZE, OvsamSizes


def make_student(config: StudentConfig) -> Assembly | OvsamAssembly:
    """Put the student together as it starts. Raises CheckpointError."""
    if config.is_ovsam:
        return _make_ovsam(config)
    main = resolve_checkpoint(config.checkpoint)
    text = resolve_checkpoint(config.text_checkpoint) if config.text_checkpoint else None
    if config.recogniser is not None:
        recogniser = resolve_checkpoint(config.recogniser)
        size = 1024 if config.image_size is None else config.image_size
        return assemble_stitched(recogniser, main, text, size, config.pyramid)
    clip = resolve_checkpoint(config.clip_checkpoint) if config.clip_checkpoint else None
    files = Checkpoints(main, clip, text)
    return assemble(files, config.model_type, config.image_size, config.head_pool)


def _make_ovsam(config: StudentConfig) -> OvsamAssembly:
    """Put an Open-Vocabulary SAM together as its training starts."""
    given = (config.clip_checkpoint, config.text_checkpoint, config.sam2clip)
    clip, text, sam2clip = (None if name is None else resolve_checkpoint(name) for name in given)
    files = OvsamFiles(resolve_checkpoint(config.checkpoint), clip, text, sam2clip)
    model_type = config.model_type or OTHER_SIZES
    sizes = config.sizes
    known = OVSAM_CONFIGS.get(model_type)
    if known is None:
        if sizes is None:
            raise ConfigError(f"model_type {OTHER_SIZES!r} needs [student.sizes]")
        known = _ovsam_config(sizes, read_text(read_checkpoint(text or clip or files.sam)))
    size = config.image_size or OVSAM_SIZE
    return assemble_ovsam(files, model_type, replace(known, image_size=size))


def _ovsam_config(sizes: OvsamSizes, text: TextSource) -> OvsamConfig:
    dim = text.config.embed_dim
    backbone = ResNetConfig(sizes.width, sizes.depths, dim, sizes.pool_grid)
    neck = NeckConfig(sizes.neck_width, sizes.neck_depth, sizes.neck_heads, sizes.neck_window)
    return OvsamConfig(backbone, text.config, neck, fpn_channels=sizes.fpn_channels)


def make_learner(assembly: Assembly | OvsamAssembly) -> Learner:
    """Make the student of an assembly, which lies where it is to be trained."""
    return Student(assembly) if isinstance(assembly, Assembly) else OvsamStudent(assembly)


def read_student(checkpoint: Path) -> Assembly | OvsamAssembly:
    """Read what an earlier run wrote. Raises CheckpointError."""
    if is_ovsam(checkpoint):
        return read_ovsam(checkpoint)
    return assemble(Checkpoints(checkpoint))
