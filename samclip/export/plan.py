"""The plan of an export: its options, checked once, with what they name found and parsed.

All that can fail before the long work fails here; the stages of the export read the plan and check
nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.disk.places import try_place
from samclip.errors import ExportError
from samclip.export.options import INT8_PRECISIONS, ExportOptions, PrecisionOptions
from samclip.export.precision.keep import KeepList, parse_keep
from samclip.runtime.bundles.manifest import WeightsDtype
from samclip.runtime.bundles.writing import check_target
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.text.templates import resolve_templates

MAX_PHOTOS = 8  # to verify on
MAX_CALIBRATION_PHOTOS = 64
MAX_GATE_PHOTOS = 32
STORED: dict[WeightsDtype, float] = {"fp32": 1.0, "fp16": 0.5, "int8": 0.25}
LEAST_SHARE = 0.25  # of a checkpoint that is its model's weights; the rest may be a training's


@dataclass(frozen=True)
class PhotoSets:
    """Photos to measure ranges and calibrate on, and other photos, held back for the gates."""

    measured: tuple[Path, ...]
    held_back: tuple[Path, ...]


@dataclass(frozen=True)
class ReductionPlan:
    """The reduced precisions to add; `judged` means that each must pass the gates."""

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
    require_place(options)
    if options.output.resolve() == options.checkpoint.resolve():
        raise ExportError(
            f"{options.output} is the bundle to export from; give another --output, since the "
            "copy could not be made again if this one were lost"
        )
    templates = None if options.templates is None else resolve_templates(options.templates)
    for more in options.more_templates:
        resolve_templates(more)
    photos = photo_paths(options.photos)[:MAX_PHOTOS] if options.verify else []
    if options.verify and not photos:
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")
    reduction = plan_reduction(options) if options.precision.precisions else None
    return ExportPlan(options, tuple(photos), templates, reduction)


def require_place(options: ExportOptions, least_bytes: int | None = None) -> None:
    """Check that the bundle can be written where it is to be, by writing there.

    `least_bytes`: the size of what is known of it; None for what the checkpoint's size suggests.
    Raises ExportError when the place is taken, cannot be written to, or is too small, and
    UnsafePathError for a name that no reader would accept.
    """
    path = check_target(options.output, options.overwrite)
    try:
        try_place(path, _least_size(options) if least_bytes is None else least_bytes)
    except OSError as error:
        raise ExportError(
            f"the bundle {path} could not be written: {error.strerror or error}. Nothing there has "
            "changed: make room, correct permissions, or choose another place."
        ) from error


def _least_size(options: ExportOptions) -> int:
    """Return what a bundle has at least: its weights, stored in as many bytes as asked for."""
    dtypes = (options.weights_dtype.default, *options.weights_dtype.graphs.values())
    given = options.checkpoint
    try:
        files = [*given.iterdir()] if given.is_dir() else [given]
        whole = sum(file.stat().st_size for file in files)
    except OSError:  # reading it says why
        return 0
    return int(whole * min(STORED[dtype] for dtype in dtypes) * LEAST_SHARE)


def plan_reduction(options: ExportOptions) -> ReductionPlan:
    """Check the options of reduced precision; raises ExportError for what is missing."""
    return ReductionPlan(
        options=options.precision,
        photos=photo_sets(options),
        keep=parse_keep(options.precision.keep_fp32),
        judged=options.verify,
    )


def photo_sets(options: ExportOptions) -> PhotoSets:
    """Find both sets; raises ExportError when one is empty, or a photo is in both.

    Without a folder to calibrate on, ranges are measured on the photos of the gates; INT8 is
    refused then.
    """
    calib = options.precision.calib
    if calib is None and INT8_PRECISIONS & set(options.precision.precisions):
        raise ExportError(
            "INT8 needs photos to calibrate on, like those of your task: give --calib FOLDER. "
            "Scales from random images would be worth nothing, so there is no default."
        )
    held_back = tuple(photo_paths(options.photos)[:MAX_GATE_PHOTOS])
    if not held_back:
        raise ExportError(f"no images in {options.photos} to judge on; give a folder of photos")
    if calib is None:
        return PhotoSets(held_back, held_back)
    measured = tuple(calibration_photos(calib))
    if options.verify:
        check_apart(measured, held_back)
    return PhotoSets(measured, held_back)


def calibration_photos(folder: Path) -> list[Path]:
    """List the photos of `folder` to calibrate on: evenly spread by name, at most 64.

    Raises ExportError when there are none.
    """
    found = photo_paths(folder)
    if not found:
        raise ExportError(f"no images in {folder} to calibrate on; give a folder of photos")
    step = max(len(found) / MAX_CALIBRATION_PHOTOS, 1.0)
    return [found[int(i * step)] for i in range(min(len(found), MAX_CALIBRATION_PHOTOS))]


def check_apart(calibration: Sequence[Path], held_back: Sequence[Path]) -> None:
    """Raise ExportError when a photo, compared by content, is in both sets."""
    known = {_digest(path): path for path in calibration}
    for path in held_back:
        if (twin := known.get(_digest(path))) is not None:
            raise ExportError(
                f"{path} is the photo {twin} of --calib: the gates would judge on the photos that "
                "the graphs were made for. Give other photos to --calib or to --photos."
            )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
