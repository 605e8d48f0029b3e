"""The text side of an export: the tower's graph, its samples, and the text files of the bundle.

The files are the tokenizer and, for labels that are known in advance, their names and embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.graphs import GraphSpec, PlainGraph
from samclip.export.models.merged import AnyTextTower
from samclip.export.models.taught_names import JointText
from samclip.export.options import ExportOptions
from samclip.export.plan import ExportPlan
from samclip.export.verification import Sample, make_sample
from samclip.export.weight_storage import stored_space
from samclip.progress import Progress, track
from samclip.runtime.bundles.manifest import BakedLabels, LabelsDtype, Text, WeightsDtype
from samclip.runtime.text.bundle_text import LABELS_DTYPES
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

TEXT_ENCODER = "text_encoder"
OUTPUTS = ("text_embeddings",)
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILES: dict[LabelsDtype, str] = {
    "fp32": "label_embeddings.f32",
    "fp16": "label_embeddings.f16",
}
TemplateSet = str | tuple[str, ...]  # a known set's name, or the templates themselves
DEFAULT_CONTEXT_LENGTH = 77  # CLIP's, for a text space without a tower
# Texts to verify on: one alone, and several of different lengths.
EXAMPLES = (
    ["a photo of a cat."],
    ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."],
)


@dataclass(frozen=True)
class Labels:
    """Names whose embeddings are known: unit rows, KxD float32, stored as `dtype`."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    dtype: LabelsDtype = "fp32"


@dataclass(frozen=True)
class TextPart:
    """A model's text space, and the tower that leads into it, if the checkpoints hold one.

    `tokenizer` is the content of `tokenizer.json`; `stored`: what the tower's weights were rounded
    to, where they come from a bundle; `labels` those of a bundle, and `baked` the same in other
    templates.
    """

    described: TextMetadata
    embed_dim: int
    tower: AnyTextTower | JointText | None = None
    tokenizer: bytes | None = None
    stored: WeightsDtype = "fp32"
    labels: Labels | None = None
    baked: tuple[tuple[TemplateSet, Labels], ...] = ()


def text_encoder_graph(tower: AnyTextTower | JointText) -> PlainGraph:
    """Return the graph of a text tower, to be written."""
    return PlainGraph(TEXT_ENCODER, partial(text_encoder_spec, tower))


def text_encoder_spec(tower: AnyTextTower | JointText) -> GraphSpec:
    """`tokens` NxL int64 -> `text_embeddings` NxD, not normalised."""
    tokens = torch.zeros(2, tower.config.context_length, dtype=torch.int64)
    return GraphSpec(TEXT_ENCODER, tower, {"tokens": tokens}, OUTPUTS, {"tokens": {0: "texts"}})


@torch.inference_mode()
def text_samples(part: TextPart) -> list[Sample]:
    """Run the torch text tower, if there is one, on batches of one and of several texts."""
    if part.tower is None:
        return []
    tokenizer = _tokenizer(part)
    batches = [torch.from_numpy(tokenizer(texts)) for texts in EXAMPLES]  # NxL
    return [
        make_sample(TEXT_ENCODER, "text", {"tokens": tokens}, OUTPUTS, (part.tower(tokens),))
        for tokens in batches
    ]


def bundle_text(
    part: TextPart | None, default: TemplateSet, plan: ExportPlan, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space for the manifest, if there is one, and make its files, by name.

    `default` are the templates to use unless the plan has others. Labels of the model itself stay,
    unless the options have others. Raises ExportError for labels that no text tower can embed.
    """
    options, tower = plan.options, None if part is None else part.tower
    if options.labels and tower is None:
        raise ExportError(
            "--vocabulary needs a text tower to embed the names; give --text-checkpoint or "
            "--clip-checkpoint"
        )
    if part is None:
        return None, {}
    files: dict[str, bytes] = {}
    if part.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = part.tokenizer
    if (labels := _labels(part, default, plan, progress)) is not None:
        files |= label_files(labels, LABELS_FILE, EMBEDDINGS_FILES[labels.dtype])
    baked = []
    for number, (templates, more) in enumerate(_baked(part, plan, progress), 2):
        one = BakedLabels(
            templates=templates,
            labels=f"labels-{number}.json",
            label_embeddings=EMBEDDINGS_FILES[more.dtype].replace(".", f"-{number}."),
            labels_dtype=more.dtype,
        )
        files |= label_files(more, one.labels, one.label_embeddings)
        baked.append(one)
    text = Text(
        model=part.described.model,
        space=_space(part, options),
        embed_dim=part.embed_dim,
        logit_scale=part.described.logit_scale,
        templates=default if options.templates is None else options.templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=DEFAULT_CONTEXT_LENGTH if tower is None else tower.config.context_length,
        labels=LABELS_FILE if labels is not None else None,
        label_embeddings=None if labels is None else EMBEDDINGS_FILES[labels.dtype],
        labels_dtype="fp32" if labels is None else labels.dtype,
        canonical=part.described.canonical,
        baked=tuple(baked),
    )
    return text, files


def _space(part: TextPart, options: ExportOptions) -> str:
    """Return the name of the space in which the bundle's names are embedded.

    Rounded weights make another space. Without a tower in the bundle nothing was rounded: the names
    in it are vectors of the tower as it was read.
    """
    dtype = options.weights_dtype.of(TEXT_ENCODER)
    written = options.text_encoder and part.tower is not None
    return stored_space(part.described.space, dtype if written and dtype != part.stored else "fp32")


def label_files(labels: Labels, names: str, embeddings: str) -> dict[str, bytes]:
    """Return the files of ready-made names, called `names` and `embeddings`."""
    return {
        names: json.dumps(list(labels.names), ensure_ascii=False).encode(),
        embeddings: labels.vectors.astype(LABELS_DTYPES[labels.dtype]).tobytes(),
    }


def _labels(
    part: TextPart, default: TemplateSet, plan: ExportPlan, progress: Progress
) -> Labels | None:
    """Return the names to put into the bundle: those asked for, or the model's own.

    The model's own are embedded again where the templates are others, and the tower is here.
    """
    templates = resolve_templates(default) if plan.templates is None else plan.templates
    names, tower = plan.options.labels, part.tower
    if not names and part.labels is not None:
        if templates == resolve_templates(default):
            return part.labels
        names = part.labels.names
    if not names:
        return None
    if tower is None:
        raise ExportError(
            "other --templates were asked for, and there is no text tower to embed the bundle's "
            "labels with them; leave the option out, or give --text-checkpoint"
        )
    return _embedded(part, tower, names, templates, plan.options, progress)


def _baked(
    part: TextPart, plan: ExportPlan, progress: Progress
) -> Iterator[tuple[TemplateSet, Labels]]:
    """Yield the vocabulary in each further set of templates: those asked for, or the model's own.

    The model's own stay where nothing else is asked for.
    """
    options, tower = plan.options, part.tower
    names = options.labels or (() if part.labels is None else part.labels.names)
    if options.more_templates and (not names or tower is None):
        raise ExportError(
            "more than one --templates was given: the first is the default, and the others are for "
            "names that are put into the bundle; give --vocabulary FILE and a text tower too"
        )
    if not options.labels and not options.more_templates and options.templates is None:
        yield from part.baked
        return
    for templates in options.more_templates:
        if tower is not None:
            resolved = resolve_templates(templates)
            yield templates, _embedded(part, tower, names, resolved, options, progress)


def _embedded(
    part: TextPart,
    tower: AnyTextTower | JointText,
    names: tuple[str, ...],
    templates: tuple[str, ...],
    options: ExportOptions,
    progress: Progress,
) -> Labels:
    runs = len(names) * len(templates)
    progress.note(f"{len(names)} labels x {len(templates)} templates: {runs:,} texts to embed")
    rows = [
        _embed(part, tower, [name], templates)
        for name in track(progress, names, "embedding labels")
    ]
    return Labels(names, np.concatenate(rows), options.labels_dtype)


def _embed(
    part: TextPart,
    tower: AnyTextTower | JointText,
    labels: Sequence[str],
    templates: tuple[str, ...],
) -> NDArray[np.float32]:
    """Embed names with the torch tower: unit rows, NxD."""

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=_tokenizer(part),
        space=part.described.space,
        embed_dim=part.embed_dim,
        templates=templates,
        canonical=part.described.canonical,
    )
    return space.embed(labels)


def _tokenizer(part: TextPart) -> Tokenizer:
    if part.tokenizer is None or part.tower is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    length = part.tower.config.context_length
    return Tokenizer.from_bytes(part.tokenizer, length, part.described.canonical)
