"""A model as the exporter sees it, whichever family it belongs to.

Each family in `samclip.export.families` makes one of these from its checkpoints; from there on
there is one way to a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from samclip.export.graphs import GraphPlan
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample
from samclip.runtime.bundles.manifest import NamingHead, Preprocessing, Source


@dataclass(frozen=True)
class Exportable:
    """Everything of a model that goes into a bundle, except the graph of its text tower.

    `head` describes the part that names things; `templates` is the set that the model is used
    with, unless others are asked for; `header` is that of a checkpoint of this model, empty where
    no checkpoint holds all of it; `samples` runs the torch model on a photo, and returns inputs and
    results of every graph; `shapes` is None for a model that takes squares alone.
    """

    model_type: str
    pixels: Preprocessing
    head: NamingHead
    text: TextPart | None
    templates: str | tuple[str, ...]
    sources: tuple[Source, ...]
    notes: str
    header: Mapping[str, str]
    graphs: tuple[GraphPlan, ...]
    samples: Callable[[Path], list[Sample]]
    shapes: Shapes | None = None


@dataclass(frozen=True)
class Shapes:
    """The shapes of input that a model can be exported for besides its square.

    A side is a multiple of `step` pixels. `default`: whether the model gets more than its square
    where no aspects are asked for. `at` returns the same model for a canvas (h, w): the graphs,
    pixels and samples of that shape.
    """

    step: int
    default: bool
    at: Callable[[tuple[int, int]], Exportable]
