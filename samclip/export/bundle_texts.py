"""The texts of a bundle: its tokenizer, ready-made labels, and what the text space is."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.exportable import Exportable, TextPart
from samclip.export.options import ExportOptions
from samclip.export.progress import Progress
from samclip.export.weight_storage import stored_space
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILE = "label_embeddings.f32"


def token_batches(text: TextPart | None) -> list[NDArray[np.int64]]:
    """One prompt, and several of different lengths; nothing without a text tower."""
    if text is None or text.tower is None:
        return []
    tokenizer = _tokenizer(text)
    several = ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."]
    return [tokenizer(["a photo of a cat."]), tokenizer(several)]


def _tokenizer(text: TextPart) -> Tokenizer:
    if text.tokenizer is None or text.tower is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    return Tokenizer.from_bytes(text.tokenizer, text.tower.config.context_length)


def bundle_text(
    model: Exportable, options: ExportOptions, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space, and make its files: tokenizer, ready-made label embeddings."""
    part = model.text
    if part is None:
        return None, {}
    templates = model.templates if options.templates is None else options.templates
    files: dict[str, bytes] = {}
    if part.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = part.tokenizer
    if part.tower is not None and options.labels:
        with progress(f"embedding {len(options.labels)} labels"):
            files |= _label_files(part, options.labels, templates)
    text = Text(
        model=part.described.model,
        space=stored_space(part.described.space, options.weights_dtype.of("text_encoder")),
        embed_dim=part.embed_dim,
        logit_scale=part.logit_scale,
        templates=templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=part.tower.config.context_length if part.tower is not None else 77,
        labels=LABELS_FILE if LABELS_FILE in files else None,
        label_embeddings=EMBEDDINGS_FILE if EMBEDDINGS_FILE in files else None,
    )
    return text, files


def _label_files(
    part: TextPart, labels: Sequence[str], templates: str | Sequence[str]
) -> dict[str, bytes]:
    """Embed the labels with the torch tower: names as JSON, vectors as little-endian float32."""
    tower = part.tower
    if tower is None:
        raise ExportError("labels cannot be embedded without a text tower")

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=_tokenizer(part),
        space=part.described.space,
        embed_dim=part.embed_dim,
        templates=resolve_templates(templates),
    )
    vectors = space.embed(labels)
    return {
        LABELS_FILE: json.dumps(list(labels), ensure_ascii=False).encode(),
        EMBEDDINGS_FILE: vectors.astype("<f4").tobytes(),
    }
