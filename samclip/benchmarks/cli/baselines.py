"""Command `samclip-bench accuracy baselines`: models of one pass against two models in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, Protocol

import typer

from samclip.baselines import BundleEncoder, CropFeature, CropImage, DenseEncoder, ImageEncoder
from samclip.benchmarks.accuracy.named_masks import (
    PROTOCOL,
    MaskNamer,
    PromptTask,
    as_kinds,
    comparison_tables,
    evaluate_baselines,
)
from samclip.benchmarks.class_names import (
    Texts,
    TextSpace,
    class_vocabulary,
    read_novel,
    read_synonyms,
)
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.image_folder import spread
from samclip.benchmarks.records import Data
from samclip.benchmarks.roofline.counted import Counted, GraphWorks, Meter
from samclip.cli import options as shared
from samclip.errors import InputError
from samclip.runtime.scene import Templates
from samclip.runtime.text.names import mark_seen
from samclip.runtime.text.vocabulary import Vocabulary

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy baselines path/to/coco --bundle my-bundle --sam mobile_sam --teacher
  conse`

- `samclip-bench accuracy baselines path/to/coco --bundle my-bundle --beside ovsam-bundle --sam
  sam-bundle --clip clip-bundle --novel novel.txt --prompt box --prompt point --json baselines.json`
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
    """The second model of the baselines, and what embeds names in its text space.

    `counted`: its graphs; None in torch.
    """

    encoder: NameEncoder
    text: TextSpace
    counted: Counted | None


@dataclass(frozen=True)
class _Classes:
    """The data set's categories, and how all models are asked for them."""

    names: Sequence[str]
    synonyms: Texts
    templates: Templates
    novel: frozenset[int] | None

    def embed(self, model: TextSpace) -> Vocabulary:
        """Put them into the text space of a model or a teacher, the base ones marked as seen."""
        found = class_vocabulary(model, self.names, self.synonyms, self.templates)
        if self.novel is None:
            return found
        seen = [name for place, name in enumerate(self.names) if place not in self.novel]
        return replace(found, seen=mark_seen(self.names, seen))


@benchmark("accuracy baselines")
def baselines(
    session: Session,
    *,
    folder: options.CocoFolder,
    sam: Sam,
    bundle: shared.Bundle = None,
    beside: options.Besides = None,
    clip: Clip = None,
    teacher: options.TeacherChoice,
    prompt: options.Prompts = None,
    margin: options.Margin = 0.0,
    novel: options.Novel = None,
    without: options.Without = "person",
    synonyms: options.Synonyms = None,
    templates: shared.Templates = None,
    annotations: options.Annotations = None,
    run: options.ModelOptions,
) -> Outcome:
    """Compare masks with names: bundles that give both, against SAM followed by a second model.

    crop-image encodes every mask's crop by the second model; crop-feature makes one more pass
    over the photo and pools its features in the masks. IoU, top-1, seconds a photo, parameters
    and multiply-accumulates, taken in turn in one run: Open-Vocabulary SAM's Table 1. Needs the
    extra `bench`.
    """
    kinds = as_kinds(prompt or ())
    coco = read_coco(folder, annotations)
    photos = spread(coco.photos, run.limit)
    apart = read_novel(novel, coco.names)
    classes = _Classes(coco.names, read_synonyms(synonyms), templates, apart)
    alone = [session.open_counted(run.variant(bundle), "measured", names=True)]
    for name in beside or ():
        alone.append(session.open_counted(run.variant(name), "beside", names=True))
    masks = session.open_counted(run.variant(sam), "masks of baselines")
    second = _open_second(session, clip, teacher, run)
    works = GraphWorks()
    asked = {one.name: classes.embed(one.model) for one in alone}
    namers = {one.name: MaskNamer(one.model, asked[one.name], Meter([one], works)) for one in alone}
    if teacher.teacher is not None:  # a bundle brings its templates
        classes = replace(classes, templates=asked[alone[0].name].templates or None)
    namers |= _in_a_row(masks, second, classes.embed(second.text), margin, works)
    task = PromptTask(coco.names, kinds, without, apart)
    rows = evaluate_baselines(namers, photos, task, session.progress)
    heads = {one.name: one.model.manifest.head for one in alone}
    untrained = {name for name, head in heads.items() if head is None or not head.trained}
    session.show(*comparison_tables(rows, untrained))
    data = Data.of(folder, coco.layout, photos, coco.photos, coco.left_out)
    return Outcome(data, PROTOCOL, rows)


def _in_a_row(
    masks: Counted, second: _Second, vocabulary: Vocabulary, margin: float, works: GraphWorks
) -> dict[str, MaskNamer]:
    """Make both baselines; what runs in torch is not counted."""

    def meter() -> Meter | None:
        return None if second.counted is None else Meter([masks, second.counted], works)

    image = CropImage(masks.model, second.encoder, second.text.vocabulary, margin)
    feature = CropFeature(masks.model, second.encoder, second.text.vocabulary)
    return {
        "crop-image": MaskNamer(image, vocabulary, meter()),
        "crop-feature": MaskNamer(feature, vocabulary, meter()),
    }


def _open_second(
    session: Session,
    clip: str | None,
    teacher: options.TeacherChoice,
    run: options.ModelOptions,
) -> _Second:
    if (clip is None) == (teacher.teacher is None):
        raise InputError(
            "the baselines need one second model that names: give --clip BUNDLE or --teacher conse."
        )
    if clip is not None:
        counted = session.open_counted(run.variant(clip), "names of baselines")
        return _Second(BundleEncoder(counted.model), counted.model, counted)
    _, encoder = session.open_teacher(teacher)
    return _Second(encoder, encoder, None)
