"""The choice of the model family, made once, from the options of an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint
from samclip.export.checkpoints.declared_sizes import MAX_SIZE, MIN_SIZE
from samclip.export.checkpoints.radio.radio_file import is_radio
from samclip.export.exportable import Exportable
from samclip.export.families.merged import merged_exportable
from samclip.export.families.merged_assembly import Checkpoints, assemble
from samclip.export.families.ovsam import ovsam_exportable
from samclip.export.families.ovsam_assembly import OvsamFiles, assemble_ovsam, is_ovsam, read_ovsam
from samclip.export.families.radio import radio_exportable
from samclip.export.families.radio_assembly import (
    IMAGE_SIZE,
    RadioFiles,
    RadioSettings,
    assemble_radio,
)
from samclip.export.families.two_towers import read_two_towers
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.export.models.radio.sizes import RADIO_SIZES
from samclip.export.options import ExportOptions
from samclip.export.rebuilding.bundle_model import is_bundle, read_bundle_model
from samclip.progress import SILENT, Progress

OVSAM_PARTS = ("sam2clip_checkpoint", "clip2sam_checkpoint")
# The published files of the parts, for error messages.
PUBLISHED = {
    "--clip-checkpoint": "the CLIP whose backbone it is, such as RN50x16",
    "--sam2clip-checkpoint": "sam2clip_vith_rn50x16.pth",
}
# Options of other families, and those of C-RADIO alone.
OTHERS = ("clip_checkpoint", *OVSAM_PARTS, "head_pool")
RADIO_OPTIONS = ("sam_checkpoint", "teacher", "align_corners", "window_size")


def read_model(options: ExportOptions, progress: Progress = SILENT) -> Exportable:
    """Read the checkpoints and build the model of the right family.

    A C-RADIO is known by its weights' names. A file that `samclip-merge` wrote names its family,
    and so does a bundle; the files of a published Open-Vocabulary SAM are assembled where the model
    type asks for one. Raises CheckpointError when a file cannot be read or does not fit, and for
    files or options that such a model has no use for; BundleError for a bundle that is damaged.
    """
    for option in ("clip_checkpoint", "text_checkpoint", "sam_checkpoint", *OVSAM_PARTS):
        file = getattr(options, option)
        if file is not None and is_bundle(file):
            raise CheckpointError(
                f"{_flag(option)} {file} is a bundle; a bundle holds a whole model, so give it as "
                "--checkpoint, or give a checkpoint here"
            )
    if is_bundle(options.checkpoint):
        if options.two_towers is not None:
            raise CheckpointError(
                f"{options.checkpoint} is a bundle, and two towers are exported from a SAM and a "
                "CLIP. Give SAM's checkpoint as --checkpoint, or leave --two-towers out."
            )
        _refuse_radio_options(options, "a bundle")
        return read_bundle_model(options, _read_checkpoint, progress)
    if options.two_towers is not None:
        _check_two_towers(options)
        _refuse_dense_names(options, "of two towers, CLIP's own names tokens as it was trained to")
        return read_two_towers(options, options.two_towers)
    found = is_radio(options.checkpoint)
    if found or (options.model_type or "") in RADIO_SIZES:
        return _read_radio(options, found)
    _refuse_radio_options(options, "not one")
    return _read_checkpoint(options, options.checkpoint)


def _refuse_radio_options(options: ExportOptions, what: str) -> None:
    """Raise CheckpointError for options of a C-RADIO; `what` the checkpoint is instead."""
    for option in RADIO_OPTIONS:
        if getattr(options, option) not in {None, False}:
            raise CheckpointError(
                f"{_flag(option)} is for a C-RADIO, and {options.checkpoint.name} is {what}; leave "
                "it out"
            )


def _refuse_dense_names(options: ExportOptions, why: str) -> None:
    """Raise CheckpointError for steps of dense names; `why` the model has no use for them."""
    if options.dense_names:
        raise CheckpointError(
            f"--recursive-attention and --token-aggregation are for C-RADIO and SAM's ViTs; {why}. "
            "Leave them out."
        )


def _read_checkpoint(options: ExportOptions, main: Path | Checkpoint) -> Exportable:
    if is_ovsam(main):
        _refuse_dense_names(options, "an Open-Vocabulary SAM names regions, not tokens")
        return _read_saved_ovsam(options, main)
    model_type = options.model_type
    if isinstance(main, Path) and model_type is not None and model_type in OVSAM_CONFIGS:
        _refuse_dense_names(options, "an Open-Vocabulary SAM names regions, not tokens")
        return _read_published_ovsam(options, model_type)
    return _read_merged(options, main)


def _check_two_towers(options: ExportOptions) -> None:
    """Raise CheckpointError where two towers were asked for with another kind of checkpoint."""
    if (
        _given(options, *OVSAM_PARTS)
        or options.model_type in OVSAM_CONFIGS
        or is_ovsam(options.checkpoint)
    ):
        raise CheckpointError(
            "an Open-Vocabulary SAM has its own CLIP inside. Leave --two-towers out, or give a SAM."
        )


def _read_radio(options: ExportOptions, found: bool) -> Exportable:
    name = options.checkpoint.name
    if not found:
        raise CheckpointError(
            f"{name} does not fit --model-type {options.model_type}: it has none of the names of a "
            "C-RADIO, such as base_model.patch_generator.*. Give NVIDIA's .pth.tar."
        )
    if flag := _given(options, *OTHERS):
        raise CheckpointError(f"{flag} changes nothing in {name}, a C-RADIO; leave the option out")
    if options.sam_checkpoint is None:
        raise CheckpointError(
            f"{name} is a C-RADIO, which has SAM's features and not SAM's decoder: give SAM ViT-H "
            "too, --sam-checkpoint sam_vit_h_4b8939.pth"
        )
    settings = RadioSettings(
        model_type=options.model_type,
        image_size=IMAGE_SIZE if options.image_size is None else options.image_size,
        teacher=options.teacher,
        align_corners=options.align_corners,
        window_size=options.window_size or 0,
        quick_gelu=options.quick_gelu,
    )
    files = RadioFiles(options.checkpoint, options.sam_checkpoint, options.text_checkpoint)
    return radio_exportable(assemble_radio(files, settings), options.dense_names)


def _read_merged(options: ExportOptions, main: Path | Checkpoint) -> Exportable:
    if flag := _given(options, *OVSAM_PARTS):
        raise CheckpointError(
            f"{flag} is a part of an Open-Vocabulary SAM; give --model-type too "
            f"({', '.join(OVSAM_CONFIGS)}), or leave it out"
        )
    files = Checkpoints(main, options.clip_checkpoint, options.text_checkpoint)
    assembly = assemble(
        files, options.model_type, options.image_size, options.head_pool, options.quick_gelu
    )
    return merged_exportable(assembly, options.dense_names)


def _read_saved_ovsam(options: ExportOptions, main: Path | Checkpoint) -> Exportable:
    """Read a file that `samclip-merge` wrote: it is complete, and only its size may be changed."""
    name = options.checkpoint.name
    parts = ("clip_checkpoint", "text_checkpoint", *OVSAM_PARTS)
    if flag := _given(options, *parts, "quick_gelu", "head_pool"):
        raise CheckpointError(
            f"{name} is a whole Open-Vocabulary SAM, and {flag} changes nothing in it; leave the "
            "option out"
        )
    _check_size(options)
    assembly = read_ovsam(main, options.image_size)
    asked, found = options.model_type, assembly.metadata.model_type
    if asked not in {None, found}:
        raise CheckpointError(
            f"{name} does not fit --model-type {asked}: it is an Open-Vocabulary SAM of the type "
            f"{found}. Leave the option out."
        )
    return ovsam_exportable(assembly)


def _read_published_ovsam(options: ExportOptions, model_type: str) -> Exportable:
    """Assemble an Open-Vocabulary SAM from the files that it is published in.

    Without `clip2sam` its masks are real, and the classifier of regions is untrained, like a new
    CLIP head. Without the other files all results would be noise.
    """
    given = {
        "--clip-checkpoint": options.clip_checkpoint,
        "--sam2clip-checkpoint": options.sam2clip_checkpoint,
    }
    if missing := [option for option, file in given.items() if file is None]:
        what = " and ".join(f"{option} ({PUBLISHED[option]})" for option in missing)
        raise CheckpointError(
            f"--model-type {model_type} is assembled from several files: {what} missing. "
            "--checkpoint is SAM ViT-H; --clip2sam-checkpoint brings the trained classifier. What "
            "samclip-merge writes is one file, which needs no --model-type."
        )
    if options.head_pool is not None:
        raise CheckpointError(
            f"--head-pool is for CLIP heads, and a {model_type} has none; leave it out"
        )
    _check_size(options)
    config = OVSAM_CONFIGS[model_type]
    files = OvsamFiles(
        sam=options.checkpoint,
        clip=options.clip_checkpoint,
        text=options.text_checkpoint,
        sam2clip=options.sam2clip_checkpoint,
        clip2sam=options.clip2sam_checkpoint,
    )
    size = config.image_size if options.image_size is None else options.image_size
    sized = replace(config, image_size=size)
    return ovsam_exportable(assemble_ovsam(files, model_type, sized, options.quick_gelu))


def _check_size(options: ExportOptions) -> None:
    size = options.image_size
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise CheckpointError(
            f"image size {size} was asked for; a multiple of 32 from {MIN_SIZE} to {MAX_SIZE} works"
        )


def _given(options: ExportOptions, *fields: str) -> str | None:
    """Return the first of these options that is given, as the command has it; None for none."""
    return next((_flag(each) for each in fields if getattr(options, each) is not None), None)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
