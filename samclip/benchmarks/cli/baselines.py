"""`samclip-bench accuracy baselines`: one merged model beside two models in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import typer

from samclip.baselines.crop_feature import CropFeature
from samclip.baselines.crop_image import CropImage
from samclip.baselines.encoders import BundleEncoder, DenseEncoder, ImageEncoder
from samclip.benchmarks.accuracy.baselines import PROTOCOL, Contender, evaluate_baselines
from samclip.benchmarks.candidates import Candidate
from samclip.benchmarks.class_names import class_vocabulary, read_synonyms
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Session, Setup, open_session
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.errors import InputError
from samclip.runtime.cli import options as shared
from samclip.runtime.model import Model

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy baselines path/to/coco --bundle my-bundle --sam mobile_sam --teacher
  conse`

- `samclip-bench accuracy baselines path/to/coco --bundle my-bundle --sam sam-bundle --clip
  clip-bundle --json baselines.json`
"""

Sam = Annotated[
    str,
    typer.Option(
        "--sam",
        metavar="NAME_OR_PATH",
        show_default=False,
        help="The bundle whose masks the baselines take.",
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip",
        metavar="NAME_OR_PATH",
        show_default=False,
        help="The bundle that names the baselines' masks; or else --teacher.",
    ),
]


class NameEncoder(ImageEncoder, DenseEncoder, Protocol):
    """Both parts of a second model."""


class _Second(NamedTuple):
    """The second model of the baselines, and the bundle whose text space it shares."""

    encoder: NameEncoder
    text: Model


def baselines(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    folder: options.CocoFolder,
    sam: Sam,
    bundle: shared.Bundle = None,
    clip: Clip = None,
    teacher: options.Teacher = None,
    teacher_options: options.TeacherOptions = None,
    margin: options.Margin = 0.0,
    without: options.Without = "person",
    synonyms: options.Synonyms = None,
    templates: shared.Templates = None,
    annotations: options.Annotations = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Compare masks with names from boxes: one pass, against SAM followed by a second model.

    crop-image encodes every mask's crop by the second model; crop-feature makes one more pass
    over the photo and pools its features in the masks. Box mIoU, top-1 and seconds a photo, taken
    in turn in one run, with ratios.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy baselines", setup, debug) as session:
        coco = read_coco(folder, annotations)
        photos = spread(coco.photos, limit)
        merged, masks = session.open_bundle(names=True), session.open(sam, "masks of baselines")
        encoder, text = _open_second(session, merged, clip, teacher, teacher_options)
        texts = read_synonyms(synonyms)
        own = class_vocabulary(merged.model, coco.names, texts, templates)
        other = class_vocabulary(text, coco.names, texts, templates)
        crop_image = CropImage(masks.model, encoder, text.vocabulary, margin)
        crop_feature = CropFeature(masks.model, encoder, text.vocabulary)
        contenders = {
            merged.name: Contender(merged.model, own),
            "crop-image": Contender(crop_image, other),
            "crop-feature": Contender(crop_feature, other),
        }
        rows = evaluate_baselines(
            contenders, photos, coco.names, apart=without, track=session.track
        )
        data = Data.of(folder, coco.layout, photos, coco.photos, coco.left_out)
        session.finish(data, PROTOCOL, rows)


def _open_second(
    session: Session,
    merged: Candidate,
    clip: str | None,
    teacher: str | None,
    teacher_options: Sequence[str] | None,
) -> _Second:
    if (clip is None) == (teacher is None):
        raise InputError(
            "the baselines need one second model that names: give --clip BUNDLE or --teacher conse."
        )
    if clip is not None:
        model = session.open(clip, "names of baselines").model
        return _Second(BundleEncoder(model), model)
    _, encoder = session.open_teacher(str(teacher), teacher_options)
    encoder.check_space(merged.model)
    return _Second(encoder, merged.model)
