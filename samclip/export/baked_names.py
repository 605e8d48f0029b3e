"""Ready-made embeddings of names, computed as the bundle that they travel in computes them.

A bundle's text tower may have rounded weights. So the names that it carries are embedded by its own
graph with ONNX Runtime, and a question about them gets what the tower would have answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import ExportError
from samclip.export.text_part import EMBEDDINGS_FILES, LABELS_FILE, Labels, label_files
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import BakedLabels, LabelsDtype, Text
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.text.bundle_text import open_text_space


def embed_in(
    bundle: Bundle, names: Sequence[str], templates: str | tuple[str, ...]
) -> NDArray[np.float32]:
    """Embed names by a bundle's own tower: unit rows, KxD.

    Raises ExportError for a bundle without a tower, VocabularyError for names and templates.
    """
    text = bundle.manifest.text
    if text is None or bundle.manifest.graphs.text_encoder is None:
        raise ExportError(
            f"the bundle {bundle.manifest.name!r} has no text encoder to embed names with. Export "
            "it with one."
        )
    bare = replace(text, labels=None, label_embeddings=None, baked=())
    with (
        TemporaryDirectory(prefix="samclip-texts-") as cache,
        closing(EnginePool(bundle, CPU, EngineOptions())) as pool,
    ):
        return open_text_space(pool, bare, Path(cache)).embed(names, templates)


def with_names(
    bundle: Bundle, names: Sequence[str], dtype: LabelsDtype
) -> tuple[Text, dict[str, bytes]]:
    """Return a bundle's text space with ready-made names in its templates, and their files.

    Raises as `embed_in`.
    """
    text = bundle.manifest.text
    if text is None:
        raise ExportError(f"the bundle {bundle.manifest.name!r} has no names. Choose another one.")
    labels = Labels(tuple(names), embed_in(bundle, names, text.templates), dtype)
    embeddings = EMBEDDINGS_FILES[dtype]
    described = replace(text, labels=LABELS_FILE, label_embeddings=embeddings, labels_dtype=dtype)
    return described, label_files(labels, LABELS_FILE, embeddings)


def embed_again(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a bundle's ready-made names, embedded once more by its own tower."""
    text = bundle.manifest.text
    files: dict[str, bytes] = {}
    sets: tuple[Text | BakedLabels, ...] = () if text is None else (text, *text.baked)
    for each in sets:
        if each.labels is None or each.label_embeddings is None:
            continue
        names = tuple(json.loads(bundle.read(each.labels)))
        labels = Labels(names, embed_in(bundle, names, each.templates), each.labels_dtype)
        files |= label_files(labels, each.labels, each.label_embeddings)
    return files
