"""The options of `samclip-export`: each declared once, with its help, and checked by typer.

`ExportArguments` has a field for each option; `command_of` makes a typer command of a function that
takes them all as one object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from samclip.cli.options import Debug
from samclip.cli.signatures import field_options, set_signature
from samclip.engines.backend_names import TENSORRT, LibraryName

_FROM, _WHAT, _CHECK = "Checkpoints", "What is written", "Verification"
_PRECISION, _ENGINE = "Reduced precision", "TensorRT plans"


class PrecisionName(str, Enum):
    """The values of --precision; an enumeration, because typer has no lists of literals."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """The command line of `samclip-export`, parsed; None where an option was not given."""

    checkpoint: Annotated[
        str,
        typer.Option(
            help="A SAM (.pth), MobileSAM (.pt) or merged (.safetensors) checkpoint, also one of "
            "an Open-Vocabulary SAM; a C-RADIO (.pth.tar); or a bundle, by name or folder, whose "
            "weights are taken as stored: 'samclip-tiny' comes with samclip. "
            "'mobile_sam' fetches MobileSAM's real weights.",
            rich_help_panel=_FROM,
        ),
    ]
    clip_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A trained CLIP head for this encoder, or a CLIP whose text tower to use. Of an "
            "Open-Vocabulary SAM: the CLIP whose backbone and text tower it has. With "
            "--two-towers: a whole CLIP or SigLIP, of OpenCLIP or Hugging Face, ViT or ResNet.",
            rich_help_panel=_FROM,
        ),
    ] = None
    text_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The text tower: an OpenCLIP or Hugging Face CLIP checkpoint or its folder, a "
            "SigLIP 2's folder, or a BERT sentence encoder; 'minilm' fetches MiniLM-L6's real "
            "weights.",
            rich_help_panel=_FROM,
        ),
    ] = None
    sam2clip_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The trained neck of an Open-Vocabulary SAM (sam2clip_*.pth), without which its "
            "masks would be noise.",
            rich_help_panel=_FROM,
        ),
    ] = None
    clip2sam_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Its trained decoder and classifier of regions (clip2sam_*.pth).",
            show_default="SAM's decoder, and an untrained classifier",
            rich_help_panel=_FROM,
        ),
    ] = None
    sam_checkpoint: Annotated[
        str | None,
        typer.Option(
            help="SAM ViT-H (sam_vit_h_4b8939.pth), whose decoder a C-RADIO uses.",
            rich_help_panel=_FROM,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(
            help="The teacher of a C-RADIO, by its name in the file, in whose text space names "
            "are.",
            show_default="the one that fits the text tower, else SigLIP, else CLIP",
            rich_help_panel=_FROM,
        ),
    ] = None
    align_corners: Annotated[
        bool,
        typer.Option(
            "--align-corners/--no-align-corners",
            help="Resize a C-RADIO's positions as its code did until June 2025.",
            rich_help_panel=_FROM,
        ),
    ] = False
    two_towers: Annotated[
        bool,
        typer.Option(
            "--two-towers",
            help="SAM and the whole CLIP of --clip-checkpoint side by side, not merged: real names "
            "without training, for more encoder passes a photo.",
            rich_help_panel=_FROM,
        ),
    ] = False
    name_by: Annotated[
        Literal["crop-image", "crop-feature"] | None,
        typer.Option(
            help="How two towers name masks by default: CLIP on a crop around each mask, or CLIP's "
            "tokens of one pass averaged in each mask.",
            show_default="crop-image",
            rich_help_panel=_WHAT,
        ),
    ] = None
    crop_margin: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=10.0,
            help="What a crop shows around a mask's box, as a share of its longer side, at both "
            "ends.",
            show_default="0.1",
            rich_help_panel=_WHAT,
        ),
    ] = None
    crop_background: Annotated[
        Literal["kept", "masked"] | None,
        typer.Option(
            help="What a crop shows outside of its mask: the photo, or CLIP's mean colour.",
            show_default="kept",
            rich_help_panel=_WHAT,
        ),
    ] = None
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--gelu",
            help="The activation of CLIP's towers, where the file does not tell it.",
            show_default="as the checkpoint's family has it",
            rich_help_panel=_FROM,
        ),
    ] = None
    model_type: Annotated[
        str | None,
        typer.Option(
            help="vit_t (MobileSAM), vit_b, vit_l, vit_h, lite2 (merged checkpoints only); "
            "ovsam-rn50x16, ovsam-rn50 or ovsam-convnext-l put an Open-Vocabulary SAM together; "
            "radio-v3-b, -l, -h, -g, radio-v4-so400m and radio-v4-h are C-RADIO.",
            show_default="read off the weights",
            rich_help_panel=_FROM,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle's folder.",
            show_default="installed by the checkpoint's name, so that --bundle NAME finds it; a "
            "bundle's with the size behind it",
            rich_help_panel=_WHAT,
        ),
    ] = None
    overwrite: Annotated[
        bool, typer.Option(help="Replace an existing bundle.", rich_help_panel=_WHAT)
    ] = False
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|HxW",
            help="Input size in pixels: the longer side, a multiple of 16 (32 for Open-Vocabulary "
            "SAM); or height and width, as 576x1024, for a bundle of that one shape.",
            show_default="the checkpoint's, 1024 for SAM",
            rich_help_panel=_WHAT,
        ),
    ] = None
    aspects: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W:H,...",
            help="Shapes of input, each with its portrait, on one weights file: a photo is encoded "
            "in the least that holds it, and nothing is computed for the rest of a square. auto is "
            "1:1,4:3,16:9, and 1:1 for SAM's ViTs, which were trained on squares. 1:1 alone is the "
            "square.",
            show_default="auto",
            rich_help_panel=_WHAT,
        ),
    ] = None
    annotator: Annotated[
        Literal["x-anylabeling"] | None,
        typer.Option(
            "--for",
            help="Write files for another program in place of a bundle: x-anylabeling gets the "
            "encoder, the decoder and the YAML that its menu Load Custom Model opens.",
            show_default="a bundle",
            rich_help_panel=_WHAT,
        ),
    ] = None
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            help="Precision of graphs in addition to FP32: adds variants, which share the weights "
            "file, and each backend takes its best. May be repeated; INT8 with FP16 is also INT8 "
            "with the rest in FP16, for TensorRT.",
            show_default="fp32 alone",
            rich_help_panel=_PRECISION,
        ),
    ] = None
    fp16: Annotated[
        bool, typer.Option("--fp16", "--half", help="--precision fp16", rich_help_panel=_PRECISION)
    ] = False
    bf16: Annotated[
        bool, typer.Option("--bf16", help="--precision bf16", rich_help_panel=_PRECISION)
    ] = False
    int8: Annotated[
        bool,
        typer.Option("--int8", help="--precision int8; needs --calib", rich_help_panel=_PRECISION),
    ] = False
    calib: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos like those of your task, to calibrate INT8 and to find what "
            "overflows FP16; up to 64, spread over the folder. None of them may be in --photos.",
            show_default="ranges are measured on the photos of --photos",
            rich_help_panel=_PRECISION,
        ),
    ] = None
    calib_method: Annotated[
        Literal["minmax", "entropy", "percentile"],
        typer.Option(help="How INT8 ranges are chosen.", rich_help_panel=_PRECISION),
    ] = "minmax"
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
    ] = None
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GRAPH|GRAPH:OPERATOR|GRAPH:NODE*",
            help="Keep a graph, an operator or nodes of it in FP32, as in clip_head or "
            "encoder:Softmax. May be repeated. Sums of residuals, norms, softmax and the mask "
            "decoder are kept anyway.",
            rich_help_panel=_PRECISION,
        ),
    ] = None
    weights_dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[GRAPH=]fp32|fp16|int8",
            help="How large weights are stored; the graphs expand them when they are loaded and "
            "compute in their precision. May be repeated, as in --weights-dtype fp16 "
            "--weights-dtype text_encoder=int8. Rounded graphs pass a separate gate.",
            show_default="fp32",
            rich_help_panel=_WHAT,
        ),
    ] = None
    opset: Annotated[
        int, typer.Option(min=18, max=23, help="ONNX opset.", rich_help_panel=_WHAT)
    ] = 20
    attention: Annotated[
        list[str] | None,
        typer.Option(
            help="Lowering of attention: chunk, wide, bias or fold, and fused in addition: the "
            "operator Attention, for TensorRT from 10.14 on, in half precision. May be repeated: "
            "the variants share one weights file, and each backend takes its best.",
            show_default="chunk and wide, and bias for fp16 and bf16",
            rich_help_panel=_WHAT,
        ),
    ] = None
    window_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Let most blocks of a C-RADIO attend in windows of so many tokens a side, which "
            "v4 was trained for: faster at large sizes.",
            show_default="no windows",
            rich_help_panel=_WHAT,
        ),
    ] = None
    recursive_attention: Annotated[
        bool,
        typer.Option(
            "--recursive-attention",
            help="Read the names of pixels from a second attention of the last block, by its own "
            "result, as RADSeg does of C-RADIO. For ViTs; nothing is trained, so compare.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    token_aggregation: Annotated[
        bool,
        typer.Option(
            "--token-aggregation",
            help="Average tokens with those like them before they are named, by a small graph, as "
            "RADSeg does. For ViTs. Older versions of samclip refuse bundles with it.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    head_pool: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            help="2 runs the CLIP head on half as many tokens a side (32x32 at 1024 px).",
            show_default="the checkpoint's, else 1",
            rich_help_panel=_WHAT,
        ),
    ] = None
    uint8_input: Annotated[
        bool,
        typer.Option(
            "--uint8-input",
            help="Let the encoder take uint8 pixels and normalise them in its graph: a quarter of "
            "the bytes to a GPU, and no floats on the host.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    vocabulary: Annotated[
        list[Path] | None,
        typer.Option(
            "--vocabulary",
            "--labels",
            help="A file with one name a line: their embeddings travel in the bundle, so that a "
            "device needs no text tower for them, and none has to load it for them. May be "
            "repeated.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    vocabulary_dtype: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(
            help="How the vocabulary's embeddings are stored. FP16 halves them, and moves a "
            "cosine by some 1e-4.",
            rich_help_panel=_WHAT,
        ),
    ] = "fp32"
    templates: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt templates: openai (80), simple (7), vild (14), none, or a file with one a "
            "line. May be repeated: the first set is the default, and the vocabulary is embedded "
            "in each.",
            show_default="the bundle's; else simple; vild for Open-Vocabulary SAM",
            rich_help_panel=_WHAT,
        ),
    ] = None
    text_encoder: Annotated[
        bool,
        typer.Option(
            "--text-encoder/--no-text-encoder",
            help="Put the text tower into the bundle.",
            rich_help_panel=_WHAT,
        ),
    ] = True
    mask_upscaler: Annotated[
        bool,
        typer.Option(
            "--mask-upscaler",
            help="Add the graph of `Scene.segment_on_device`, which makes whole masks on the "
            "device: 4 kB, and one more plan for TensorRT. Older versions of samclip refuse "
            "bundles with it.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run every exported graph on photos against the torch model; a difference "
            "beyond tolerance fails the export and leaves no bundle. So do the gates of reduced "
            "precision, which --no-verify leaves out too.",
            rich_help_panel=_CHECK,
        ),
    ] = True
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
    ] = None
    engine: Annotated[
        LibraryName | None,
        typer.Option(
            help="Build TensorRT plans of the bundle as well, as `samclip engine build` does: "
            "alone for the GPU of this machine; tensorrt-rtx with --target for RTX GPUs, anywhere.",
            show_default="no plans",
            rich_help_panel=_ENGINE,
        ),
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="smNN",
            help="A GPU architecture for --engine tensorrt-rtx, as sm86; may be repeated.",
            show_default="the GPU of this machine",
            rich_help_panel=_ENGINE,
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object on stdout and nothing else: the bundle's path and its "
            "manifest. Progress stays on stderr.",
        ),
    ] = False
    debug: Debug = False


def command_of(run: Callable[[ExportArguments], None]) -> Callable[..., None]:
    """Return `run` as a function with one keyword for each option, which is what typer reads."""

    def command(**values: Any) -> None:
        run(ExportArguments(**values))

    set_signature(command, run, field_options(ExportArguments))
    return command


class ExportCommand(TyperCommand):
    """A command whose `--engine` may stand alone, which typer's options with a value cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of a command line."""
        return super().parse_args(ctx, with_engine(args))


def with_engine(args: Sequence[str]) -> list[str]:
    """Return the arguments with the default value behind each bare `--engine`."""
    completed: list[str] = []
    for arg, following in zip_longest(args, args[1:]):
        completed.append(arg)
        if arg == "--engine" and (following is None or following.startswith("-")):
            completed.append(TENSORRT)
    return completed
