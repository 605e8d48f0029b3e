"""`samclip classify`: which name fits the whole image."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.runtime.cli import options
from samclip.runtime.cli.answers import Task, answer_images
from samclip.runtime.cli.failures import reported
from samclip.runtime.cli.models import Request
from samclip.runtime.cli.tables import show_classification
from samclip.runtime.cli.vocabulary import read_names, require_names

CLASSIFY_EXAMPLES = """
**Examples:**

- `samclip classify street.jpg --names "a street,a kitchen,a beach"`

- `samclip classify photos/ --labels labels.txt --top 3`

- `samclip classify street.jpg --labels labels.txt --json`
"""

Top = Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="Show the K best names.")]


def classify(
    images: options.Images,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    top: Top = 5,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    debug: options.Debug = False,
) -> None:
    """Tell which of the names fits each image best, with probabilities.

    Prints a table, or with --json every name and its probability. A picture is drawn only when
    --output says where.
    """
    with reported(debug):
        vocabulary = require_names(read_names(names, labels), "classify")
        task = Task(
            name="classify",
            ask=lambda scene: scene.classify(vocabulary, templates=templates),
            record=lambda answer: answer.to_dict(),
            show=lambda answer: show_classification(answer, top),
            draws=False,
        )
        answer_images(
            Request(images, bundle, backend, precision, threads, streams, output, as_json), task
        )
