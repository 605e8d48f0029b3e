"""Command `samclip-bench agreement`: bundles, precisions or backends compared without truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy.agreement import PROTOCOL, Side, evaluate_agreement
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.image_folder import spread
from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.records import Data
from samclip.benchmarks.scores import Candidate
from samclip.cli import options as shared
from samclip.cli.arguments import read_names
from samclip.cli.given_paths import parse_path
from samclip.cli.image_list import find_images
from samclip.cli.terminal import err, say, say_note
from samclip.errors import VocabularyError
from samclip.export.precision.gate_tasks import gate_vocabulary, unnameable
from samclip.runtime.scene import Templates
from samclip.runtime.text.vocabulary import Vocabulary

EXAMPLES = """
**Examples:**

- `samclip-bench agreement my-bundle my-bundle path/to/photos --reference-precision fp32 --precision
  int8`

- `samclip-bench agreement vit-b-bundle tiny-bundle path/to/photos --limit 50 --json agreement.json`
"""

Reference = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE", show_default=False, help="The bundle whose answers count as right."
    ),
]
Bundle = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        show_default=False,
        help="The bundle that is compared; the same one, to compare precisions or backends.",
    ),
]
Photos = Annotated[
    Path,
    typer.Argument(
        parser=parse_path, metavar="FOLDER", show_default=False, help="Photos; no truth is needed."
    ),
]
ReferenceBackend = Annotated[
    str,
    typer.Option("--reference-backend", metavar="auto|NAME", help="As --backend, of REFERENCE."),
]
ReferencePrecision = Annotated[
    str | None,
    typer.Option(
        "--reference-precision",
        metavar="fp32|fp16|bf16|int8|int8_fp16",
        show_default="the bundle's first choice for the backend",
        help="As --precision, of REFERENCE.",
    ),
]


@benchmark("agreement")
def agreement(
    session: Session,
    *,
    reference: Reference,
    bundle: Bundle,
    folder: Photos,
    reference_backend: ReferenceBackend = "auto",
    reference_precision: ReferencePrecision = None,
    names: shared.Names = None,
    labels: shared.Labels = None,
    templates: shared.Templates = None,
    run: options.ModelOptions,
) -> Outcome:
    """Compare two bundles, precisions or backends on photos, without any truth.

    Cosines of their embeddings, IoU of their masks for the same prompts, the share of pixels and
    of objects that get the same name.
    """
    images = find_images([folder])
    for note in images.notes:
        say_note(note)
    paths = images.paths
    photos = spread(paths, run.limit)
    truth = Variant(reference, reference_backend, reference_precision, run.threads)
    models = (
        session.open(truth, "reference"),
        session.open(run.variant(bundle), "compared"),
    )
    reason = next(filter(None, (unnameable(each.model.manifest) for each in models)), None)
    if reason is not None:
        say(err, reason)
    chosen = read_names(names, labels)
    one, other = (_side(each, chosen, templates, reason is None) for each in models)
    _check_names(one, other)
    rows = evaluate_agreement(one, other, photos, session.progress)
    protocol = PROTOCOL if reason is None else (*PROTOCOL, reason)
    return Outcome(Data.of(folder, "photos", photos, paths), protocol, rows)


def _side(
    candidate: Candidate, names: Sequence[str] | None, templates: Templates, nameable: bool
) -> Side:
    vocabulary: Vocabulary | None = None
    if nameable and names is None:
        vocabulary = gate_vocabulary(candidate.model)
    elif nameable and names is not None:
        vocabulary = candidate.model.vocabulary(names, templates)
    return Side(candidate.name, candidate.model, vocabulary)


def _check_names(one: Side, other: Side) -> None:
    """Raise VocabularyError when bundles without a text encoder know different names."""
    if one.vocabulary and other.vocabulary and one.vocabulary.names != other.vocabulary.names:
        raise VocabularyError(
            f"{one.name} and {other.name} come with different names, so that their answers cannot "
            "be compared. Give --names that both know."
        )
