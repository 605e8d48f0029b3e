"""The answers on further shapes of input against those in the first one, on photos.

No ground truth is needed, and none is claimed: what is padding in a square may be seen by a model,
so that answers differ a little. The comparison is printed and kept in the bundle's notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from samclip.export.precision.draft_bundle import DraftBundle, reference_model
from samclip.export.precision.gate_tasks import answer, ask, gate_vocabulary
from samclip.export.precision.gates import mask_ious, name_agreements
from samclip.progress import Progress

LABELS = {"semantic_agreement": "pixels named alike", "top1_agreement": "photos and masks"}


def compare_shapes(draft: DraftBundle, photos: Sequence[Path], progress: Progress) -> str:
    """Ask on all shapes what is asked in the first alone; return a sentence with what agrees."""
    pairs, overlaps = [], []
    first = replace(draft, only=draft.canvases[:1])
    with (
        progress.stage("comparing shapes of input with the first", len(photos)) as stage,
        reference_model(first) as alone,
        reference_model(draft) as shaped,
    ):
        texts = gate_vocabulary(alone)
        for photo in photos:
            questions, expected = ask(alone, photo, texts)
            found = answer(shaped, photo, questions, gate_vocabulary(shaped))
            pairs.append((expected, found))
            overlaps.append(mask_ious(questions, expected, found))
            stage.advance()
    masks = np.concatenate(overlaps) if overlaps else np.zeros(0)
    parts = [f"IoU of {len(masks)} masks {masks.mean():.3f}"] if len(masks) else []
    parts += [f"{LABELS[row.measure]} {row.value:.1%}" for row in name_agreements(pairs)]
    canvases = ", ".join(f"{width} x {height}" for height, width in draft.canvases)
    return (
        f"Inputs of {canvases} pixels; on {len(photos)} photos each on its own shape, against the "
        f"first alone: {'; '.join(parts) or 'nothing to compare'}."
    )
