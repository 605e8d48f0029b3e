"""Which checkpoints taught a model: what its metadata says beside those that it was made of."""

from __future__ import annotations

from samclip.export.checkpoints.checkpoint import weights_file
from samclip.export.checkpoints.fetch import file_sha256, packaged_license, resolve_checkpoint
from samclip.export.families.merged_assembly import weights_name
from samclip.merge.config import TeachersConfig
from samclip.runtime.bundles.manifest import Source


def teacher_sources(teachers: TeachersConfig) -> tuple[Source, ...]:
    """Name the teachers' checkpoints with their SHA-256, each once.

    Raises CheckpointError for one that is missing.
    """
    asked = (teachers.names, teachers.masks)
    found = [_source(teacher.checkpoint) for teacher in asked if teacher is not None]
    return tuple(dict.fromkeys(found))


def _source(checkpoint: str) -> Source:
    path = weights_file(resolve_checkpoint(checkpoint))
    digest = file_sha256(path)
    license_name = packaged_license(digest) or "unknown"
    return Source(role="teacher", file=weights_name(path), sha256=digest, license=license_name)
