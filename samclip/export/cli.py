"""The command `samclip-export`: one checkpoint in, one verified bundle out.

How `samclip-export` reads its command line, where that is more than typer can say.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from samclip.cli.arguments import read_names
from samclip.cli.engine_build import build_and_show
from samclip.cli.exits import (
    StoppableTyper,
    fill_closed_streams,
    report_errors,
    report_stdout_errors,
)
from samclip.cli.options import AsJson, Debug
from samclip.cli.terminal import err, say, write_line
from samclip.errors import ExportError, InputError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home
from samclip.runtime.plans import PlanSettings, check_library

DEFAULT_ENGINE = "tensorrt"


class ExportCommand(TyperCommand):
    """The command; `--engine` may stand alone, which typer's options with a value cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of a command line."""
        return super().parse_args(ctx, with_engine(args))


def with_engine(args: Sequence[str]) -> list[str]:
    """Give a bare `--engine` the value that it stands for."""
    told: list[str] = []
    for arg, following in zip_longest(args, args[1:]):
        told.append(arg)
        if arg == "--engine" and (following is None or following.startswith("-")):
            told.append(DEFAULT_ENGINE)
    return told


EXAMPLES = """
[bold]Examples[/]

MobileSAM, fetched from a package and verified:

    samclip-export --checkpoint mobile_sam

SAM ViT-B with OpenCLIP's text tower, at 512 px:

    samclip-export --checkpoint sam_vit_b_01ec64.pth --text-checkpoint open_clip_model.safetensors
    --imgsz 512 --output sam-b-512

FP16 for TensorRT and INT8 for both TensorRT and CPUs, calibrated and gated on photos:

    samclip-export --checkpoint merged.safetensors --fp16 --int8 --calib photos/ --photos held-back/

The same, with plans for RTX GPUs:

    samclip-export --checkpoint merged.safetensors --fp16 --engine tensorrt-rtx --target sm86

Open-Vocabulary SAM from the files that it is published in (samclip-merge's are one file):

    samclip-export --model-type ovsam-rn50x16 --checkpoint sam_vit_h_4b8939.pth --clip-checkpoint
    rn50x16.pth --sam2clip-checkpoint sam2clip_vith_rn50x16.pth --clip2sam-checkpoint
    clip2sam_coco_rn50x16.pth

A device without a text tower, with its vocabulary embedded:

    samclip-export --checkpoint merged.safetensors --labels names.txt --no-text-encoder
"""

app = StoppableTyper(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "filelock")
_FROM, _WHAT, _CHECK = "Checkpoints", "What is written", "Verification"
_ENGINE = "TensorRT plans"
_PRECISION = "Reduced precision"


class PrecisionName(str, Enum):
    """What --precision takes; an enumeration, because typer has no lists of literals."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@app.command(epilog=EXAMPLES, cls=ExportCommand)
def export(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    checkpoint: Annotated[
        str,
        typer.Option(
            help="A SAM (.pth), MobileSAM (.pt) or merged (.safetensors) checkpoint, also one of "
            "an Open-Vocabulary SAM; "
            "'mobile_sam' fetches MobileSAM's real weights.",
            rich_help_panel=_FROM,
        ),
    ],
    clip_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A trained CLIP head for this encoder, or a CLIP whose text tower to use. Of an "
            "Open-Vocabulary SAM: the CLIP whose backbone and text tower it has.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    text_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The text tower: an OpenCLIP or Hugging Face CLIP checkpoint or its folder, or "
            "a BERT sentence encoder; 'minilm' fetches MiniLM-L6's real weights.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    sam2clip_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The trained neck of an Open-Vocabulary SAM (sam2clip_*.pth), without which its "
            "masks would be noise.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    clip2sam_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Its trained decoder and classifier of regions (clip2sam_*.pth).",
            show_default="SAM's decoder, and an untrained classifier",
            rich_help_panel=_FROM,
        ),
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--gelu",
            help="The text tower's activation, where the file does not tell it.",
            show_default="as the checkpoint's family has it",
            rich_help_panel=_FROM,
        ),
    ] = None,
    model_type: Annotated[
        str | None,
        typer.Option(
            help="vit_t (MobileSAM), vit_b, vit_l, vit_h, lite2 (merged checkpoints only); "
            "ovsam-rn50x16, ovsam-rn50 or ovsam-convnext-l put an Open-Vocabulary SAM together.",
            show_default="read off the weights",
            rich_help_panel=_FROM,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle's folder.",
            show_default="installed by the checkpoint's name, so that --bundle NAME finds it",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an existing bundle.", rich_help_panel=_WHAT)
    ] = False,
    imgsz: Annotated[
        int | None,
        typer.Option(
            help="Square input size in pixels, a multiple of 16 (32 for Open-Vocabulary SAM).",
            show_default="the checkpoint's, 1024 for SAM",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            help="What graphs compute in, beside FP32: adds variants, which share the weights "
            "file, and each backend takes its best. May be repeated; INT8 with FP16 is also INT8 "
            "with the rest in FP16, for TensorRT.",
            show_default="fp32 alone",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", "--half", help="--precision fp16", rich_help_panel=_PRECISION)
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="--precision bf16", rich_help_panel=_PRECISION)
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="--precision int8; needs --calib", rich_help_panel=_PRECISION),
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos like those of your task, to calibrate INT8 and to find what "
            "overflows FP16; up to 64, spread over the folder. None of them may be in --photos.",
            show_default="ranges are measured on the photos of --photos",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    calib_method: Annotated[
        Literal["minmax", "entropy", "percentile"],
        typer.Option(help="How INT8 ranges are chosen.", rich_help_panel=_PRECISION),
    ] = "minmax",
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="ALPHA",
            help="Move ranges of activations into weights before INT8, as SmoothQuant does; "
            "0.5 is usual.",
            show_default="off",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GRAPH|GRAPH:OPERATOR|GRAPH:NODE*",
            help="Keep a graph, an operator or nodes of it in FP32, as in clip_head or "
            "encoder:Softmax. May be repeated. Sums of residuals, norms, softmax and the mask "
            "decoder are kept anyway.",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    weights_dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[GRAPH=]fp32|fp16|int8",
            help="How large weights are stored; the graphs expand them when they are loaded and "
            "compute in their precision. May be repeated, as in --weights-dtype fp16 "
            "--weights-dtype text_encoder=int8. Rounded graphs pass a gate of their own.",
            show_default="fp32",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    opset: Annotated[
        int, typer.Option(min=18, max=23, help="ONNX opset.", rich_help_panel=_WHAT)
    ] = 20,
    attention: Annotated[
        list[str] | None,
        typer.Option(
            help="Lowering of attention: chunk, wide, bias or fold, and fused beside them: the "
            "operator Attention, for TensorRT from 10.14 on, in half precision. May be repeated: "
            "the variants share one weights file, and each backend takes its best.",
            show_default="chunk and wide, and bias for fp16 and bf16",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    head_pool: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            help="2 runs the CLIP head on half as many tokens a side (32x32 at 1024 px).",
            show_default="the checkpoint's, else 1",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A file with one name a line; their embeddings travel in the bundle.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="Prompt templates: openai (80), simple (7), vild (14), none, or a file with one a "
            "line.",
            show_default="openai; vild for Open-Vocabulary SAM",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    text_encoder: Annotated[
        bool,
        typer.Option(
            "--text-encoder/--no-text-encoder",
            help="Put the text tower into the bundle.",
            rich_help_panel=_WHAT,
        ),
    ] = True,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run every exported graph on photos against the torch model; a difference "
            "beyond tolerance fails the export and leaves no bundle. So do the gates of reduced "
            "precision, which --no-verify leaves out too.",
            rich_help_panel=_CHECK,
        ),
    ] = True,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            "--data",
            help="A folder of photos to verify on: the first 8 by name against torch, the first "
            "32 at the gates of reduced precision.",
            show_default="four photos that come with samclip",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    engine: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(
            help="Build TensorRT plans of the bundle as well, as `samclip engine build` does: "
            "alone for the GPU of this machine; tensorrt-rtx with --target for RTX GPUs, anywhere.",
            show_default="no plans",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="smNN",
            help="A GPU architecture for --engine tensorrt-rtx, as sm86; may be repeated.",
            show_default="the GPU of this machine",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Turn a checkpoint into a bundle: ONNX graphs, a manifest, and proof that they are equal."""
    with report_errors(debug):
        _require_packages()
        # torch and onnx take seconds to import: --help and usage errors do not wait for them.
        from samclip.export.checkpoints.fetch import resolve_checkpoint  # noqa: PLC0415
        from samclip.export.exporter import export_bundle  # noqa: PLC0415
        from samclip.export.options import (  # noqa: PLC0415
            ExportOptions,
            PrecisionOptions,
            parse_attention,
            parse_precisions,
            parse_weights_dtypes,
        )
        from samclip.export.progress import ConsoleProgress  # noqa: PLC0415
        from samclip.export.report import print_export, to_json  # noqa: PLC0415

        def resolve(given: str) -> Path:
            return resolve_checkpoint(given, report=lambda text: say(err, text))

        plans = _plan_settings(engine, target)
        precisions = parse_precisions(
            [p.value for p in precision or ()], fp16=fp16, bf16=bf16, int8=int8
        )
        options = ExportOptions(
            checkpoint=resolve(checkpoint),
            output=(output or bundle_home() / Path(checkpoint).stem).expanduser(),
            clip_checkpoint=resolve(clip_checkpoint) if clip_checkpoint else None,
            text_checkpoint=resolve(text_checkpoint) if text_checkpoint else None,
            sam2clip_checkpoint=resolve(sam2clip_checkpoint) if sam2clip_checkpoint else None,
            clip2sam_checkpoint=resolve(clip2sam_checkpoint) if clip2sam_checkpoint else None,
            model_type=model_type,
            image_size=imgsz,
            head_pool=head_pool,
            quick_gelu=quick_gelu,
            opset=opset,
            precision=PrecisionOptions(
                precisions, tuple(keep_fp32 or ()), calib, calib_method, smooth
            ),
            weights_dtype=parse_weights_dtypes(weights_dtype),
            attention=parse_attention(attention, precisions),
            templates=_templates(templates),
            labels=tuple(read_names(None, labels) or ()),
            text_encoder=text_encoder,
            verify=verify,
            photos=photos,
            overwrite=overwrite,
        )
        export = export_bundle(options, ConsoleProgress(err))
        if as_json:
            write_line(to_json(export))
        else:
            print_export(export, err)
        if plans is not None:
            build_and_show(Bundle.open(export.path), plans)


def _plan_settings(engine: str | None, targets: Sequence[str] | None) -> PlanSettings | None:
    """Say which plans to build, None for none; raises now what would fail after the export."""
    if engine is None:
        if targets:
            raise InputError(f"--target {targets[0]} is for plans; give --engine tensorrt-rtx too")
        return None
    settings = PlanSettings(backend=engine, targets=tuple(targets or ()))
    check_library(settings)
    return settings


def _require_packages() -> None:
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


def _templates(given: str | None) -> str | tuple[str, ...] | None:
    """Keep a known set's name as it is; read the lines of a file otherwise."""
    if given is None:
        return None
    file = Path(given).expanduser()
    return tuple(read_names(None, file) or ()) if file.is_file() else given


def main() -> None:
    """Run the command."""
    fill_closed_streams()
    with report_stdout_errors():
        app()
