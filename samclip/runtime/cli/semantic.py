"""`samclip semantic`: a name for every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.runtime.cli import options
from samclip.runtime.cli.answers import Task, answer_images
from samclip.runtime.cli.failures import reported
from samclip.runtime.cli.models import Request
from samclip.runtime.cli.tables import show_semantic
from samclip.runtime.cli.vocabulary import read_names, require_names

if TYPE_CHECKING:
    from samclip.runtime.results.answers import SemanticMap

SEMANTIC_EXAMPLES = """
**Examples:**

- `samclip semantic street.jpg --names "road,car,sky,building"`

- `samclip semantic street.jpg --labels labels.txt --refine --output labelled.png`

- `samclip semantic photos/ --labels labels.txt --json > labels.jsonl`
"""

Refine = Annotated[
    bool,
    typer.Option("--refine", help="Let SAM's mask decoder draw the borders; takes longer."),
]
Background = Annotated[
    float | None,
    typer.Option(
        "--background",
        min=0,
        max=1,
        metavar="0..1",
        show_default="every pixel gets a name",
        help="Leave pixels without a name where its probability is below this.",
    ),
]


def semantic(
    images: options.Images,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    refine: Refine = False,
    background: Background = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    debug: options.Debug = False,
) -> None:
    """Give every pixel the name that fits it best.

    Draws STEM.semantic.png into the current folder (for several images, into samclip-semantic/)
    unless --output or --json is given. With --json, the pixels of each name that was found come as
    COCO run-length encoding.
    """
    with reported(debug):
        vocabulary = require_names(read_names(names, labels), "semantic")
        task = Task(
            name="semantic",
            ask=lambda scene: scene.semantic(
                vocabulary, templates=templates, refine=refine, background=background
            ),
            record=record_map,
            show=show_semantic,
        )
        answer_images(
            Request(images, bundle, backend, precision, threads, streams, output, as_json), task
        )


def record_map(answer: SemanticMap) -> dict[str, Any]:
    """Return the map as plain values: per name found, its share and its pixels as COCO RLE."""
    from samclip.runtime.tasks.mask_ops import encode_rle  # brings in pycocotools

    record = answer.to_dict()
    for found in record["classes"]:
        found["segmentation"] = encode_rle(answer.labels == found["index"])
    return record
