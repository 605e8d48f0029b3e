"""Command `samclip-bench accuracy semantic`: label maps judged by their mIoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from samclip.benchmarks.accuracy.label_maps import PROTOCOL, Labeller, Part, evaluate_semantic
from samclip.benchmarks.class_names import Texts, ask_classes, check_synonyms, read_synonyms
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.image_folder import spread
from samclip.benchmarks.data.label_folder import LabelFolder, read_label_folder
from samclip.benchmarks.records import Data
from samclip.benchmarks.scores import Candidate
from samclip.cli import options as shared
from samclip.cli.given_paths import parse_path
from samclip.errors import InputError
from samclip.runtime.scene import Templates

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy semantic path/to/camvid --bundle my-bundle`

- `samclip-bench accuracy semantic path/to/VOCdevkit/VOC2012 --templates openai --background 0.5`

- `samclip-bench accuracy semantic path/to/coco --bundle my-bundle --untrained untrained-bundle
  --synonyms synonyms.json --json semantic.json`
"""

AskedTexts = Mapping[int, Sequence[str]]  # by the index of the class
WITH, WITHOUT = "with background", "without background"

Folder = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="VOC2012, VOC2010 with PASCAL Context's maps, ADEChallengeData2016, COCO-Stuff with "
        "COCO's photos, each as published; or CamVid's layout (images/, labels/ of 8-bit PNGs, "
        'classes.json with "names" and "void"), or COCO\'s (images/, instances.json), whose '
        "instances are painted.",
    ),
]
Layout = Annotated[
    Literal["voc", "context", "ade20k", "coco-stuff", "camvid", "coco"] | None,
    typer.Option(
        "--layout",
        metavar="voc|context|ade20k|coco-stuff|camvid|coco",
        show_default="what the folder looks like",
        help="The data set, for a folder that holds several.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        show_default="val, validation or val2017",
        help="The part of a published data set.",
    ),
]
Refine = Annotated[
    bool,
    typer.Option(
        "--refine/--no-refine", help="Measure maps whose borders SAM's decoder drew as well."
    ),
]
Background = Annotated[
    float | None,
    typer.Option(
        "--background",
        min=0,
        max=1,
        metavar="0..1",
        show_default="texts for background compete with the others",
        help="Of data sets with a class for background: pixels whose best text has a probability "
        "below this are background. Figures without that class are always given too.",
    ),
]
Denoise = Annotated[
    float | None,
    typer.Option(
        "--denoise",
        min=0,
        max=1,
        metavar="0..1",
        show_default="all names compete",
        help="Measure maps without the names whose probability is below this everywhere in the "
        "photo as well.",
    ),
]
Synonyms = Annotated[
    Path | None,
    typer.Option(
        "--synonyms",
        parser=parse_path,
        metavar="FILE",
        show_default="those that come with samclip, or each class by its name",
        help='A JSON object of class: ["text", ...]: a class listed there is asked for by these '
        "texts, and the one that fits a pixel best counts.",
    ),
]


@benchmark("accuracy semantic")
def semantic(
    session: Session,
    *,
    folder: Folder,
    bundle: shared.Bundle = None,
    layout: Layout = None,
    split: Split = None,
    refine: Refine = True,
    background: Background = None,
    denoise: Denoise = None,
    untrained: options.Untrained = None,
    synonyms: Synonyms = None,
    templates: shared.Templates = None,
    run: options.ModelOptions,
) -> Outcome:
    """Measure the mIoU of label maps, coarse and refined, with and without background.

    The table also has the best map of a single class, and with --untrained the same of a bundle
    whose head was never trained. Pixels without truth do not count. The report of --json has the
    IoU of every class too.
    """
    labelled = read_label_folder(folder, layout, split)
    photos = spread(labelled.photos, run.limit)
    candidates = [session.open(run.variant(bundle), "measured", names=True)]
    if untrained is not None:
        candidates.append(session.open(run.variant(untrained), "untrained"))
    asked = dict(_parts(labelled, read_synonyms(synonyms), background))
    labellers = [
        labeller
        for candidate in candidates
        for labeller in _labellers(candidate, asked, templates, refine, denoise)
    ]
    rows = evaluate_semantic(labellers, photos, labelled.names, session.progress)
    data = Data.of(folder, labelled.layout, photos, labelled.photos, labelled.left_out)
    return Outcome(data, PROTOCOL, rows)


def _parts(
    labelled: LabelFolder, synonyms: Texts, threshold: float | None
) -> Iterator[tuple[Part, AskedTexts]]:
    """Return the parts that are measured, each with its texts by the index of their class."""
    check_synonyms(labelled.names, synonyms)
    named = zip(labelled.names, labelled.texts, strict=True)
    texts = {place: synonyms.get(name, own) for place, (name, own) in enumerate(named)}
    background = labelled.background
    if background is None:
        if threshold is not None:
            raise InputError(f"{labelled.layout} has no class background. Leave --background out.")
        yield Part(), texts
        return
    others = {place: group for place, group in texts.items() if place != background}
    yield Part(f"{WITHOUT}, {len(others)} classes", ignored=background), others
    with_background = Part(
        f"{WITH}, {len(texts)} classes",
        fallback=None if threshold is None else background,
        threshold=threshold,
    )
    yield with_background, texts if threshold is None else others


def _labellers(
    candidate: Candidate,
    asked: Mapping[Part, AskedTexts],
    templates: Templates,
    refine: bool,
    denoise: float | None,
) -> Iterator[Labeller]:
    """Let a model label every part coarsely, and refined and denoised if asked for."""
    kinds = {"": None} if denoise is None else {"": None, f", denoised at {denoise:g}": denoise}
    for part, texts in asked.items():
        classes = ask_classes(candidate.model, texts, templates)
        for suffix, least in kinds.items():
            for kind in ("coarse", "refined") if refine else ("coarse",):
                name = f"{candidate.name} {kind}{suffix}"
                sharp = kind == "refined"
                yield Labeller(name, candidate.model, classes, part, sharp, least)
