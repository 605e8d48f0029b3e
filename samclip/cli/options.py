"""The options that commands share, each defined once, so that a flag means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from samclip.cli.given_paths import parse_path
from samclip.runtime.assets import DEFAULT_BUNDLE

_BUNDLE = "Bundle and engine"
_NAMES = "Names"
_PROMPTS = "Prompts"
_ANSWER = "Answer"


class Point(NamedTuple):
    """(x, y) in pixels of the image."""

    x: float
    y: float


class Box(NamedTuple):
    """Upper left and lower right corner, in pixels of the image."""

    x1: float
    y1: float
    x2: float
    y2: float


def parse_point(text: str) -> Point:
    """Read `X,Y`; raises typer.BadParameter."""
    return Point(*_numbers(text, 2, "X,Y in pixels, as in 420,310"))


def parse_box(text: str) -> Box:
    """Read `X1,Y1,X2,Y2`, upper left and lower right; raises typer.BadParameter."""
    return Box(*_numbers(text, 4, "X1,Y1,X2,Y2 in pixels, as in 10,20,200,240"))


def parse_gpu(text: str | int) -> int:
    """Read the number of a GPU, as in 1 or cuda:1; raises typer.BadParameter."""
    from samclip.errors import InputError
    from samclip.runtime.devices import parse_device  # brings in numpy

    try:
        device = parse_device(text)
    except InputError:
        device = None
    if device is None or device.on_host:
        raise typer.BadParameter(f"{text!r} is not a GPU, as in 0 or cuda:0.")
    return device.index


def _numbers(text: str, count: int, expected: str) -> list[float]:
    """Split `text` at commas into exactly `count` numbers; `expected` is for the error."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise typer.BadParameter(f"{text!r} is not {expected}.")
    return numbers


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        show_default=False,
        help="Image files, folders of images (in name order), patterns such as 'photos/*.jpg', or "
        "- for stdin.",
    ),
]

BundleArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        envvar="SAMCLIP_BUNDLE",
        show_default=DEFAULT_BUNDLE,
        help="A folder, or a bundle's name (`samclip doctor` lists them).",
    ),
]
Bundle = Annotated[
    str | None,
    typer.Option(
        "--bundle",
        "-b",
        metavar="NAME_OR_PATH",
        envvar="SAMCLIP_BUNDLE",
        rich_help_panel=_BUNDLE,
        show_default=DEFAULT_BUNDLE,
        help="The bundle: a folder, or a bundle's name (`samclip doctor` lists them).",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="auto|NAME",
        rich_help_panel=_BUNDLE,
        help="What runs the graphs: auto, onnxruntime (CPU), cuda ... `samclip doctor` lists them.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|cuda:N|N",
        rich_help_panel=_BUNDLE,
        show_default="the fastest that works here",
        help="Run on the CPU, or on a GPU by its number. Where that does not work, it is an error.",
    ),
]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "int8", "int8_fp16"] | None,
    typer.Option(
        "--precision",
        metavar="fp32|fp16|bf16|int8|int8_fp16",
        rich_help_panel=_BUNDLE,
        show_default="the bundle's first choice for the backend",
        help="Take the graphs of this precision; int8 stands for any INT8.",
    ),
]
EnginePrecision = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        "--engine-precision",
        metavar="fp32|bf16",
        rich_help_panel=_BUNDLE,
        show_default="fp32, or what was measured here",
        help="What the engine computes in where graphs are in FP32: bf16 on processors that are "
        "made for it, with OpenVINO, or ONNX Runtime on Arm. Its first use compares each graph "
        "with FP32.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        rich_help_panel=_BUNDLE,
        show_default="the backend's choice",
        help="CPU threads for one run of a graph.",
    ),
]
Streams = Annotated[
    int | None,
    typer.Option(
        "--streams",
        min=1,
        metavar="N",
        rich_help_panel=_BUNDLE,
        show_default="2 for a series of images, else 1",
        help="Work on N images at once, each with its share of the cores.",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        rich_help_panel=_BUNDLE,
        show_default="134217728",
        help="Refuse images of more pixels. Decoding takes 7 to 11 bytes a pixel.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        rich_help_panel=_BUNDLE,
        show_default="no limit",
        help="For bundles of strangers: end a graph that takes longer to load or to run (CPU).",
    ),
]

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--names",
        "-n",
        metavar="A,B,C",
        rich_help_panel=_NAMES,
        show_default=False,
        help="Names to choose from, separated by commas; may be repeated.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_NAMES,
        show_default=False,
        help="A text file with one name per line, added to --names; a name may hold commas there.",
    ),
]
VocabularyFile = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_NAMES,
        show_default=False,
        help="Names with their examples, from a file of `samclip teach` or Vocabulary.save; the "
        "names of --names and --labels are added to them.",
    ),
]
SavedNames = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        parser=parse_path,
        metavar="FILE",
        show_default=False,
        help="Names with their examples, from a file of `samclip teach` or Vocabulary.save: a "
        "request that asks for one of these names is answered with it.",
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        metavar="openai|simple|vild|none|TEXT",
        rich_help_panel=_NAMES,
        show_default="the bundle's",
        help="Sentences to average a name over: the 80 of OpenAI, the 7 simple ones, the 14 of "
        "ViLD, the bare name, or your own, as 'a photo of a {}.'",
    ),
]

NameBy = Annotated[
    Literal["crop-image", "crop-feature"] | None,
    typer.Option(
        "--name-by",
        rich_help_panel=_NAMES,
        show_default="the bundle's",
        help="How a bundle with two towers names masks: CLIP on a crop around each, or the tokens "
        "of one pass averaged in each.",
    ),
]

Points = Annotated[
    list[Point] | None,
    typer.Option(
        "--point",
        "-p",
        parser=parse_point,
        metavar="X,Y",
        rich_help_panel=_PROMPTS,
        show_default=False,
        help="A point of the object, in pixels of the image. Repeated points describe ONE object "
        "together (see --separate). With one --box they refine that box.",
    ),
]
PointLabels = Annotated[
    list[int] | None,
    typer.Option(
        "--label",
        metavar="1|0",
        rich_help_panel=_PROMPTS,
        show_default="1 for every point",
        help="For each --point, in order: 1 belongs to the object, 0 does not.",
    ),
]
Boxes = Annotated[
    list[Box] | None,
    typer.Option(
        "--box",
        parser=parse_box,
        metavar="X1,Y1,X2,Y2",
        rich_help_panel=_PROMPTS,
        show_default=False,
        help="A box around an object, in pixels of the image. Each repeated box is a separate "
        "object.",
    ),
]
Separate = Annotated[
    bool,
    typer.Option(
        "--separate",
        rich_help_panel=_PROMPTS,
        help="Every --point is a separate object.",
    ),
]
Multimask = Annotated[
    bool,
    typer.Option(
        "--multimask",
        rich_help_panel=_PROMPTS,
        help="Three masks per object (whole, part, subpart) instead of the best one.",
    ),
]

Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=_ANSWER,
        show_default=False,
        help="Where the picture goes: a file such as out.png for one image, a folder (created if "
        "needed) for many. Only pictures of samclip are replaced.",
    ),
]
MaskFiles = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="FOLDER",
        rich_help_panel=_ANSWER,
        show_default=False,
        help="Write each mask there as a PNG of 0 and 255, STEM.000.png and so on.",
    ),
]
LabelFiles = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="FOLDER",
        rich_help_panel=_ANSWER,
        show_default=False,
        help="Write the map there as an index PNG, STEM.png: a pixel's value is the place of its "
        "name, counted from 0; 255 for none.",
    ),
]
Save = Annotated[
    str | None,
    typer.Option(
        "--save",
        metavar="FORMAT",
        rich_help_panel=_ANSWER,
        show_default=False,
        help="Write a data set of all images for trainers and annotation tools: yolo, coco, "
        "labelme, cvat, mask-png or supervision-json.",
    ),
]
SaveTo = Annotated[
    str | None,
    typer.Option(
        "--save-to",
        metavar="FOLDER",
        rich_help_panel=_ANSWER,
        show_default="samclip-FORMAT",
        help="The folder of --save: missing or empty.",
    ),
]
CaptionKind = Annotated[
    Literal["none", "names", "all"],
    typer.Option(
        "--captions",
        metavar="none|names|all",
        rich_help_panel=_ANSWER,
        help="What is written on the picture: nothing, names, or the scores of nameless masks too.",
    ),
]
TopMasks = Annotated[
    int | None,
    typer.Option(
        "--top",
        min=1,
        metavar="N",
        rich_help_panel=_ANSWER,
        show_default="all",
        help="Draw and list the N best masks; --json and --masks have all.",
    ),
]
Recursive = Annotated[
    bool,
    typer.Option("--recursive", "-r", help="Search the subfolders of folders too."),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        rich_help_panel=_ANSWER,
        help="Show every column, and lines as long as they are; else they fit the terminal.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=_ANSWER,
        help="Print JSON on stdout and nothing else: one document per image, each on one line. No "
        "picture is drawn unless --output asks for it.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        rich_help_panel=_ANSWER,
        help="Say on stderr what each stage took, in ms; -vv: what each graph took.",
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="SAMCLIP_DEBUG",
        rich_help_panel=_ANSWER,
        help="Show the traceback of an error.",
    ),
]
