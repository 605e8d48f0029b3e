"""`samclip everything`: the masks of all objects, without a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.runtime.cli import options
from samclip.runtime.cli.answers import Task, answer_images
from samclip.runtime.cli.failures import reported
from samclip.runtime.cli.models import Request
from samclip.runtime.cli.tables import show_masks
from samclip.runtime.cli.vocabulary import read_names

if TYPE_CHECKING:
    from samclip.runtime.results.masks import AutoMasks

EVERYTHING_EXAMPLES = """
**Examples:**

- `samclip everything street.jpg`

- `samclip everything street.jpg --points-per-side 16 --names "car,person,tree"`

- `samclip everything photos/ --output masks/ --min-mask-region-area 200`
"""

_FILTERS = "Which masks are kept"

PointsPerSide = Annotated[
    int,
    typer.Option(
        "--points-per-side",
        min=1,
        metavar="N",
        rich_help_panel=_FILTERS,
        help="Points are tried on a grid of this many by this many; fewer are faster.",
    ),
]
IouThreshold = Annotated[
    float,
    typer.Option(
        "--pred-iou-thresh",
        min=0,
        max=1,
        metavar="0..1",
        rich_help_panel=_FILTERS,
        help="Least quality, as the model predicts it.",
    ),
]
StabilityThreshold = Annotated[
    float,
    typer.Option(
        "--stability-score-thresh",
        min=0,
        max=1,
        metavar="0..1",
        rich_help_panel=_FILTERS,
        help="Least stability of a mask when its cutoff is moved.",
    ),
]
CropLayers = Annotated[
    int,
    typer.Option(
        "--crop-n-layers",
        min=0,
        max=4,
        metavar="0..4",
        rich_help_panel=_FILTERS,
        help="Look again at 4, then 16 ... crops, to find small objects; one encoder pass each.",
    ),
]
MinArea = Annotated[
    int,
    typer.Option(
        "--min-mask-region-area",
        min=0,
        metavar="PIXELS",
        rich_help_panel=_FILTERS,
        help="Remove islands and fill holes of fewer pixels.",
    ),
]


def everything(
    images: options.Images,
    points_per_side: PointsPerSide = 32,
    pred_iou_thresh: IouThreshold = 0.88,
    stability_score_thresh: StabilityThreshold = 0.95,
    crop_n_layers: CropLayers = 0,
    min_mask_region_area: MinArea = 0,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    debug: options.Debug = False,
) -> None:
    """Find the masks of all objects, with the options of SAM's automatic mask generator.

    Draws STEM.everything.png into the current folder (for several images, into
    samclip-everything/) unless --output or --json is given. With --json, each mask has the keys of
    SamAutomaticMaskGenerator, and its name if names were given.
    """
    with reported(debug):
        vocabulary = read_names(names, labels)
        task = Task(
            name="everything",
            ask=lambda scene: scene.everything(
                names=vocabulary,
                templates=templates,
                points_per_side=points_per_side,
                pred_iou_thresh=pred_iou_thresh,
                stability_score_thresh=stability_score_thresh,
                crop_n_layers=crop_n_layers,
                min_mask_region_area=min_mask_region_area,
            ),
            record=record_masks,
            show=show_masks,
        )
        answer_images(
            Request(images, bundle, backend, precision, threads, streams, output, as_json), task
        )


def record_masks(answer: AutoMasks) -> dict[str, Any]:
    """Return the masks under SAM's own keys, with names where there are any."""
    records = answer.records(rle=True)
    if answer.names is not None and answer.name_probabilities is not None:
        pairs = zip(answer.names, answer.name_probabilities, strict=True)
        for record, (name, probability) in zip(records, pairs, strict=True):
            record |= {"name": name, "probability": float(probability)}
    return {"size": list(answer.packed.size), "masks": records}
