"""The plan of an export: its options, checked once, with what they name found and parsed.

All that can fail before the long work fails here; the stages of the export read the plan and check
nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samclip.errors import ExportError
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.export.precision.keep import KeepList, parse_keep
from samclip.export.precision.photos import PhotoSets, photo_sets
from samclip.runtime.bundles.writing import check_target
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.text.templates import resolve_templates

MAX_PHOTOS = 8  # to verify on


@dataclass(frozen=True)
class ReductionPlan:
    """The reduced precisions to add; without `judged`, they are added without gates."""

    options: PrecisionOptions
    keep: KeepList
    photos: PhotoSets
    judged: bool


@dataclass(frozen=True)
class ExportPlan:
    """An export whose options fit together.

    `photos` are those to verify on, none without verification; `templates` are None where the
    model's own are used; `reduction` is None where all graphs compute in FP32.
    """

    options: ExportOptions
    photos: tuple[Path, ...]
    templates: tuple[str, ...] | None
    reduction: ReductionPlan | None


def plan_export(options: ExportOptions) -> ExportPlan:
    """Check the options of an export and find what they name.

    Raises ExportError, UnsafePathError or VocabularyError for what would fail later.
    """
    check_target(options.output, options.overwrite)
    templates = None if options.templates is None else resolve_templates(options.templates)
    photos = photo_paths(options.photos)[:MAX_PHOTOS] if options.verify else []
    if options.verify and not photos:
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")
    reduction = plan_reduction(options) if options.precision.precisions else None
    return ExportPlan(options, tuple(photos), templates, reduction)


def plan_reduction(options: ExportOptions) -> ReductionPlan:
    """Check the options of reduced precision; raises ExportError when photos or a graph lack."""
    return ReductionPlan(
        options=options.precision,
        photos=photo_sets(options),
        keep=parse_keep(options.precision.keep_fp32),
        judged=options.verify,
    )
