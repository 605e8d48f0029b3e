"""The options that benchmarks share, each defined once, and the groups that several take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from samclip.benchmarks.data.image_folder import spread
from samclip.benchmarks.latency.contenders import Variant, combine
from samclip.benchmarks.records import Data
from samclip.cli import options as shared
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import say_note
from samclip.errors import InputError
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_photos
from samclip.runtime.pixels.photo_listing import PhotoListing, list_photos

_BUNDLE, _DATA, _NAMES = "Bundle and engine", "Data", "Names"
_BESIDE, _HOW_OFTEN, _ANSWER = "Measured with it", "How often", "Answer"
PACKAGED = packaged_photos()

CocoFolder = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="A folder in COCO's layout: images/ and instances.json, or val2017/ and annotations/ "
        "as COCO and LVIS publish them.",
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_DATA,
        show_default="instances.json, or else COCO's or LVIS's val",
        help="The JSON file of annotations, below the folder or anywhere.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="N",
        rich_help_panel=_DATA,
        show_default="all",
        help="Use N photos, spread evenly over the folder's, always the same ones.",
    ),
]
Synonyms = Annotated[
    Path | None,
    typer.Option(
        "--synonyms",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_NAMES,
        show_default="each class by its name",
        help='A JSON object of class: ["text", ...]: a class listed there is asked for by the mean '
        "of its texts' embeddings. With --templates none texts may be whole prompts.",
    ),
]
Without = Annotated[
    str | None,
    typer.Option(
        "--without",
        metavar="CLASS",
        rich_help_panel=_NAMES,
        help="Give figures without this class too, if the data has it.",
    ),
]
AgainstTemplates = Annotated[
    list[str] | None,
    typer.Option(
        "--against-templates",
        metavar="openai|simple|vild|none|TEXT",
        rich_help_panel=_NAMES,
        show_default=False,
        help="Sentences to ask with too, of the same passes: what --templates gains over them; may "
        "be repeated.",
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        "--margin",
        min=0,
        max=10,
        metavar="SHARE",
        rich_help_panel=_NAMES,
        help="Context of a crop: how much is added to each side of the box, as a share of that "
        "side.",
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="box|point",
        rich_help_panel=_DATA,
        show_default="box",
        help="What asks for an object, its box or a point in it; may be repeated, for both.",
    ),
]
Novel = Annotated[
    list[str] | None,
    typer.Option(
        "--novel",
        metavar="FILE|NAMES",
        rich_help_panel=_NAMES,
        show_default=False,
        help="Classes that no model was trained to name: a file of one a line, or a list with "
        "commas; may be repeated. Figures are then given for base and novel classes too.",
    ),
]
Besides = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="NAME_OR_PATH",
        rich_help_panel=_BESIDE,
        show_default=False,
        help="Another bundle that names masks by itself, in the same run; may be repeated.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="NAME_OR_PATH",
        rich_help_panel=_BESIDE,
        show_default=False,
        help="A second bundle, measured in the same run; ratios of the first to it are given.",
    ),
]
Untrained = Annotated[
    str | None,
    typer.Option(
        "--untrained",
        metavar="NAME_OR_PATH",
        rich_help_panel=_BESIDE,
        show_default=False,
        help="A bundle of the same architecture whose head was never trained: the floor.",
    ),
]
Teacher = Annotated[
    Literal["conse"] | None,
    typer.Option(
        "--teacher",
        metavar="conse",
        rich_help_panel=_BESIDE,
        show_default=False,
        help="The teacher that the names were learned from: ConSE, an ImageNet classifier and a "
        "text tower. Needs samclip\\[export].",
    ),
]
TeacherOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher-option",
        metavar="KEY=VALUE",
        rich_help_panel=_BESIDE,
        show_default=False,
        help="classifier and text (checkpoints, by path or packaged name), top_k, temperature, "
        "centre, framing (whole or centre), dense_size; may be repeated.",
    ),
]
Aspects = Annotated[
    list[str] | None,
    typer.Option(
        "--aspects",
        metavar="W:H",
        rich_help_panel=_BUNDLE,
        show_default="all of the bundle's",
        help="Keep to these shapes of input, as 1:1; may be repeated.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_ANSWER,
        show_default=False,
        help="Write the whole report there: rows with their intervals, how they are defined, "
        "machine, versions, threads, this command, date, and hashes of the bundles.",
    ),
]

Bundles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[BUNDLE]...",
        show_default=DEFAULT_BUNDLE,
        help="Bundles by folder or name; the first is what the others are compared with.",
    ),
]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="auto|NAME",
        rich_help_panel=_BUNDLE,
        show_default="auto",
        help="What runs the graphs; may be repeated: each is measured.",
    ),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="fp32|fp16|bf16|int8|int8_fp16",
        rich_help_panel=_BUNDLE,
        show_default="the bundle's first choice for the backend",
        help="Take the graphs of this precision; may be repeated: each is measured.",
    ),
]
EnginePrecisions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-precision",
        metavar="fp32|bf16",
        rich_help_panel=_BUNDLE,
        show_default="fp32, or what was measured here",
        help="Compute in this where graphs are in FP32; may be repeated: each is measured, on the "
        "backends that have it.",
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        parser=parse_path,
        metavar="FOLDER",
        rich_help_panel=_DATA,
        show_default="those that come with samclip",
        help="Photos to measure on, in turn.",
    ),
]
Photo = Annotated[
    Path | None,
    typer.Option(
        "--photo",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_DATA,
        show_default="one that comes with samclip",
        help="The photo to measure on.",
    ),
]
Repeats = Annotated[
    int, typer.Option("--repeats", min=2, metavar="N", rich_help_panel=_HOW_OFTEN, help="Rounds.")
]
WarmUp = Annotated[
    int,
    typer.Option(
        "--warm-up", min=0, metavar="N", rich_help_panel=_HOW_OFTEN, help="Rounds not kept."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """The last options of every benchmark of accuracy: how its models are run, the report."""

    limit: Limit = None
    json: Json = None
    backend: shared.Backend = "auto"
    precision: shared.Precision = None
    threads: shared.Threads = None
    device: shared.Device = None
    aspects: Aspects = None
    engine_precision: shared.EnginePrecision = None
    debug: shared.Debug = False

    def variant(self, bundle: str | None) -> Variant:
        """Return a bundle, by name or path, as these options run it; None for the default one."""
        aspects = None if self.aspects is None else tuple(self.aspects)
        return Variant(
            bundle,
            self.backend,
            self.precision,
            self.threads,
            self.device,
            aspects,
            self.engine_precision,
        )


@dataclass(frozen=True)
class VariantOptions:
    """Bundles, and all backends and precisions that each is measured with."""

    bundles: Bundles = None
    backend: Backends = None
    precision: Precisions = None
    threads: shared.Threads = None
    device: shared.Device = None
    engine_precision: EnginePrecisions = None

    def variants(self) -> tuple[Variant, ...]:
        """List every bundle on every backend in every precision."""
        given = (self.bundles or (), self.backend or (), self.precision or ())
        return combine(*given, self.threads, self.device, self.engine_precision or ())


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher, None for no teacher, and its settings."""

    teacher: Teacher = None
    teacher_options: TeacherOptions = None


@dataclass(frozen=True)
class PhotoOptions:
    """The folder of photos to measure on, and how many of them."""

    photos: Photos = None
    limit: Limit = None

    def choose(self, default_limit: int | None = None) -> tuple[list[Path], Data]:
        """Return the photos to measure on, spread evenly over the folder's, and what they are.

        Raises InputError.
        """
        listing = find_photos(self.photos)
        chosen = list(spread(listing.paths, self.limit or default_limit))
        return chosen, Data.of(listing.folder, "photos", chosen, listing.paths, listing.counts)


@dataclass(frozen=True)
class ReportOptions:
    """The last options of the other benchmarks."""

    json: Json = None
    debug: shared.Debug = False


def choose_photo(photo: Path | None) -> tuple[Path, Data]:
    """Return the one photo to measure on, by default one of samclip's, and its description."""
    chosen = photo or sorted(PACKAGED.glob("*.jpg"))[0]
    return chosen, Data.of(chosen, "photos", [chosen], [chosen])


def find_photos(folder: Path | None) -> PhotoListing:
    """List the photos of a folder, by default those of samclip; raises InputError.

    What is left out of the folder is said on stderr.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"there is no folder {folder} of photos. Give an existing one.")
    listing = list_photos(folder or PACKAGED)
    left_out = listing.describe_left_out()
    if not listing.paths:
        was = f" It was {left_out}." if left_out else ""
        raise InputError(
            f"the folder {folder} has no photos. Give one with JPEG or PNG files.{was}"
        )
    if left_out and folder is not None:
        say_note(left_out)
    return listing
