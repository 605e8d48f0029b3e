"""A model as the exporter sees it, whichever family it is of: what to write, and what to say of it.

A family makes one of these from its own assembly (`merged_exportable`, `ovsam_exportable`); from
there on there is one way to a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.graph_files import GraphFiles, write_graph, write_plain_graph
from samclip.export.graphs import GraphSpec
from samclip.export.models.attention import Lowering
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.text_tower import TextTower
from samclip.export.parity import Sample
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing, RegionHead, Source


@dataclass(frozen=True)
class GraphPlan:
    """A graph to be written, in given lowerings of attention and a given opset."""

    name: str
    write: Callable[[Sequence[Lowering], int], GraphFiles]


@dataclass(frozen=True)
class TextPart:
    """A model's text space, and what leads into it; a model may know its space without a tower.

    `tokenizer` is the content of `tokenizer.json`; `logit_scale` multiplies cosines.
    """

    described: TextMetadata
    embed_dim: int
    logit_scale: float
    tower: TextTower | BertTower | None = None
    tokenizer: bytes | None = None


@dataclass(frozen=True)
class Exportable:
    """Everything of a model that goes into a bundle, but the graph of its text tower.

    `head` is what names; `templates` are those that the model is used with, unless others are asked
    for; `samples` runs the torch model on a photo, and gives inputs and results of every graph.
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


def lowered(name: str, spec: Callable[[Lowering], GraphSpec]) -> GraphPlan:
    """Plan a graph with relative-position attention; `spec` describes it in one lowering."""

    def write(lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        return write_graph(name, spec, lowerings, opset)

    return GraphPlan(name, write)


def plain(
    name: str, spec: Callable[[], GraphSpec], own_opset: Callable[[int], int] | None = None
) -> GraphPlan:
    """Plan a graph that has one form; `own_opset` tells its opset where others have another."""

    def write(lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        del lowerings
        return write_plain_graph(name, spec(), own_opset(opset) if own_opset else opset)

    return GraphPlan(name, write)
