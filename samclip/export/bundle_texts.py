"""The texts of a bundle: its tokenizer, ready-made labels, and what the text space is."""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.assemble import Assembly
from samclip.export.options import ExportOptions
from samclip.export.progress import Progress
from samclip.export.weight_storage import stored_space
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.texts.templates import resolve_templates
from samclip.runtime.texts.text_space import TextSpace
from samclip.runtime.texts.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILE = "label_embeddings.f32"


def token_batches(assembly: Assembly) -> list[NDArray[np.int64]]:
    """One prompt, and several of different lengths; nothing without a text tower."""
    if assembly.model.text is None:
        return []
    tokenizer = _tokenizer(assembly)
    several = ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."]
    return [tokenizer(["a photo of a cat."]), tokenizer(several)]


def _tokenizer(assembly: Assembly) -> Tokenizer:
    if assembly.tokenizer is None or assembly.model.text is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    return Tokenizer.from_bytes(assembly.tokenizer, assembly.model.text.config.context_length)


def bundle_text(
    assembly: Assembly, options: ExportOptions, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space, and make its files: tokenizer, ready-made label embeddings."""
    described, tower = assembly.metadata.text, assembly.model.text
    if described is None:
        return None, {}
    files: dict[str, bytes] = {}
    if assembly.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = assembly.tokenizer
    if tower is not None and options.labels:
        with progress(f"embedding {len(options.labels)} labels"):
            files |= _label_files(assembly, options)
    text = Text(
        model=described.model,
        space=stored_space(described.space, options.weights_dtype.of("text_encoder")),
        embed_dim=assembly.metadata.embed_dim,
        logit_scale=described.logit_scale,
        templates=options.templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=tower.config.context_length if tower is not None else 77,
        labels=LABELS_FILE if LABELS_FILE in files else None,
        label_embeddings=EMBEDDINGS_FILE if EMBEDDINGS_FILE in files else None,
    )
    return text, files


def _label_files(assembly: Assembly, options: ExportOptions) -> dict[str, bytes]:
    """Embed the labels with the torch tower: names as JSON, vectors as little-endian float32."""
    tower, described = assembly.model.text, assembly.metadata.text
    if tower is None or described is None:
        raise ExportError("labels cannot be embedded without a text tower")

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=_tokenizer(assembly),
        space=described.space,
        embed_dim=assembly.metadata.embed_dim,
        templates=resolve_templates(options.templates),
    )
    vectors = space.embed(options.labels)
    return {
        LABELS_FILE: json.dumps(list(options.labels), ensure_ascii=False).encode(),
        EMBEDDINGS_FILE: vectors.astype("<f4").tobytes(),
    }
