"""The names that gates ask for, in a model's text space, and why there may be none."""

from __future__ import annotations

import json
import warnings

from samclip.errors import UntrainedHeadWarning
from samclip.export.untrained import head_name
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.model import Model
from samclip.runtime.text.vocabulary import Vocabulary

# What is on photos of every day, some of the names close to each other.
NAMES = (
    "person", "face", "dog", "cat", "bird", "horse", "car", "bus", "bicycle", "aeroplane", "boat",
    "rocket", "chair", "table", "cup", "plate", "spoon", "food", "flower", "tree", "grass", "sky",
    "water", "road", "building", "wall", "fabric", "wood",
)  # fmt: skip
TEMPLATES = ("a photo of a {}.",)
MAX_LABELS = 64  # of a bundle without a text encoder, which knows no other names


def gate_vocabulary(model: Model) -> Vocabulary | None:
    """Embed the gates' names with the model's own text encoder, or take its ready-made labels.

    None when it has neither, or nothing that names. A head that was never trained has a vocabulary
    too, whose vectors can be compared, but see `unnameable`.
    """
    text = model.manifest.text
    if model.manifest.head is None or text is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        if model.manifest.graphs.text_encoder is not None:
            return model.vocabulary(NAMES, TEMPLATES)
        if text.labels is not None:
            return model.vocabulary(json.loads(model.bundle.read(text.labels))[:MAX_LABELS])
    return None


def unnameable(manifest: Manifest) -> str | None:
    """Say why names cannot be judged; None when they can."""
    text, head = manifest.text, manifest.head
    if head is None:
        return "names are not judged: the bundle has no CLIP head"
    if not head.trained:
        return f"names are not judged: the {head_name(head)} was never trained"
    if text is None or (manifest.graphs.text_encoder is None and text.labels is None):
        return "names are not judged: the bundle has no text encoder and no labels"
    return None
