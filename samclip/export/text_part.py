"""The text side of an export: the tower's graph, its samples, and the text files of the bundle.

The files are the tokenizer and, for labels that are known in advance, their names and embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.graphs import GraphSpec, PlainGraph
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.text_tower import TextTower
from samclip.export.plan import ExportPlan
from samclip.export.verification import Sample, make_sample
from samclip.export.weight_storage import stored_space
from samclip.progress import Progress
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

TEXT_ENCODER = "text_encoder"
OUTPUTS = ("text_embeddings",)
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILE = "label_embeddings.f32"
DEFAULT_CONTEXT_LENGTH = 77  # CLIP's, for a text space without a tower
# Texts to verify on: one alone, and several of different lengths.
EXAMPLES = (
    ["a photo of a cat."],
    ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."],
)


@dataclass(frozen=True)
class TextPart:
    """A model's text space, and the tower that leads into it, if the checkpoints hold one.

    `tokenizer` is the content of `tokenizer.json`; `logit_scale` multiplies cosines.
    """

    described: TextMetadata
    embed_dim: int
    logit_scale: float
    tower: TextTower | BertTower | None = None
    tokenizer: bytes | None = None


def text_encoder_graph(tower: TextTower | BertTower) -> PlainGraph:
    """Return the graph of a text tower, to be written."""
    return PlainGraph(TEXT_ENCODER, partial(text_encoder_spec, tower))


def text_encoder_spec(tower: TextTower | BertTower) -> GraphSpec:
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
    part: TextPart | None, default: str, plan: ExportPlan, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space for the manifest, if there is one, and make its files, by name.

    `default` is the set of templates to use unless the plan has others. Raises ExportError for
    labels that no text tower can embed.
    """
    options, tower = plan.options, None if part is None else part.tower
    if options.labels and tower is None:
        raise ExportError(
            "--labels needs a text tower to embed them; give --text-checkpoint or --clip-checkpoint"
        )
    if part is None:
        return None, {}
    files: dict[str, bytes] = {}
    if part.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = part.tokenizer
    if options.labels and tower is not None:
        templates = plan.templates or resolve_templates(default)
        with progress.stage(f"embedding {len(options.labels)} labels"):
            vectors = _embed(part, tower, options.labels, templates)
        files[LABELS_FILE] = json.dumps(list(options.labels), ensure_ascii=False).encode()
        files[EMBEDDINGS_FILE] = vectors.astype("<f4").tobytes()
    text = Text(
        model=part.described.model,
        space=stored_space(part.described.space, options.weights_dtype.of(TEXT_ENCODER)),
        embed_dim=part.embed_dim,
        logit_scale=part.logit_scale,
        templates=default if options.templates is None else options.templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=DEFAULT_CONTEXT_LENGTH if tower is None else tower.config.context_length,
        labels=LABELS_FILE if options.labels else None,
        label_embeddings=EMBEDDINGS_FILE if options.labels else None,
    )
    return text, files


def _embed(
    part: TextPart,
    tower: TextTower | BertTower,
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
    )
    return space.embed(labels)


def _tokenizer(part: TextPart) -> Tokenizer:
    if part.tokenizer is None or part.tower is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    return Tokenizer.from_bytes(part.tokenizer, part.tower.config.context_length)
