"""A model as the exporter sees it, whichever family it belongs to.

Each family in `samclip.export.families` makes one of these from its checkpoints; from there on
there is one way to a bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samclip.export.graphs import GraphPlan
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing, RegionHead, Source

UNTRAINED_HEAD = (
    "The CLIP head was never trained: masks are real, names (classify, semantic, names=) are noise."
)
UNTRAINED_REGIONS = (
    "The classifier of regions was never trained: masks are real, their names (names=) are noise."
)


@dataclass(frozen=True)
class Exportable:
    """Everything of a model that goes into a bundle, except the graph of its text tower.

    `head` describes the part that names things; `templates` is the set that the model is used
    with, unless others are asked for; `samples` runs the torch model on a photo, and returns inputs
    and results of every graph.
    """

    model_type: str
    pixels: Preprocessing
    head: ClipHead | RegionHead
    text: TextPart | None
    templates: str
    sources: tuple[Source, ...]
    notes: str
    graphs: tuple[GraphPlan, ...]
    samples: Callable[[Path], list[Sample]]


def head_name(head: ClipHead | RegionHead) -> str:
    """Return the name for people of the part that names things."""
    return "CLIP head" if isinstance(head, ClipHead) else "classifier of regions"


def untrained_note(head: ClipHead | RegionHead | None) -> str | None:
    """Return what an untrained head means for users; None for a trained one, or for no head."""
    if head is None or head.trained:
        return None
    return UNTRAINED_HEAD if isinstance(head, ClipHead) else UNTRAINED_REGIONS
