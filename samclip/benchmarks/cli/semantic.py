"""`samclip-bench accuracy semantic`: how well every pixel is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy.semantic import PROTOCOL, Labeller, evaluate_semantic
from samclip.benchmarks.candidates import Candidate
from samclip.benchmarks.class_names import Texts, class_vocabulary, read_synonyms
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Setup, open_session
from samclip.benchmarks.data.label_maps import read_label_folder
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.runtime.cli import options as shared
from samclip.runtime.scene import Templates

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy semantic path/to/camvid --bundle my-bundle`

- `samclip-bench accuracy semantic path/to/coco --bundle my-bundle --untrained untrained-bundle
  --synonyms synonyms.json --json semantic.json`
"""

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        show_default=False,
        help='CamVid\'s layout (images/, labels/ of 8-bit PNGs, classes.json with "names" and '
        '"void"), or COCO\'s (images/, instances.json), whose instances are painted.',
    ),
]
Refine = Annotated[
    bool,
    typer.Option(
        "--refine/--no-refine", help="Measure maps whose borders SAM's decoder drew as well."
    ),
]


def semantic(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    folder: Folder,
    bundle: shared.Bundle = None,
    refine: Refine = True,
    untrained: options.Untrained = None,
    synonyms: options.Synonyms = None,
    templates: shared.Templates = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Measure the mIoU of label maps, coarse and refined.

    Beside them stand the best map of a single class, and with --untrained the same of a bundle
    whose head was never trained. Pixels without truth do not count. The report of --json has the
    IoU of every class too.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy semantic", setup, debug) as session:
        labelled = read_label_folder(folder)
        photos = spread(labelled.photos, limit)
        candidates = [session.open_bundle(names=True)]
        if untrained is not None:
            candidates.append(session.open(untrained, "untrained"))
        texts = read_synonyms(synonyms)
        labellers: dict[str, Labeller] = {}
        for candidate in candidates:
            labellers |= _labellers(candidate, labelled.names, texts, templates, refine)
        rows = evaluate_semantic(labellers, photos, labelled.names, session.track)
        data = Data.of(folder, labelled.layout, photos, labelled.photos, labelled.left_out)
        session.finish(data, PROTOCOL, rows)


def _labellers(
    candidate: Candidate, names: tuple[str, ...], texts: Texts, templates: Templates, refine: bool
) -> dict[str, Labeller]:
    """Let a model label coarsely, and refined if asked for."""
    vocabulary = class_vocabulary(candidate.model, names, texts, templates)
    found = {f"{candidate.name} coarse": Labeller(candidate.model, vocabulary)}
    if refine:
        found[f"{candidate.name} refined"] = Labeller(candidate.model, vocabulary, refine=True)
    return found
