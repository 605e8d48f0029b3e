"""The graph that averages tokens with those like them, added to a model of any family.

It runs between the encoder and the CLIP head; `samclip.export.models.self_correlation` has its
formula.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from samclip.export.exportable import Exportable
from samclip.export.graphs import GraphSpec, PlainGraph
from samclip.export.models.self_correlation import TokenAggregation
from samclip.export.verification import Sample
from samclip.runtime.graph_outputs import AGGREGATED, AGGREGATION, BACKBONE, NAME_FEATURES
from samclip.runtime.pixels.image import load_image, resize_longest_side

# Of parity: a pair of tokens whose score is within rounding of 0 is left out by one of two runs,
# and each of N tokens kept weighs about 1 / N. With 1,024 tokens 1.1e-3 was seen.
TOLERANCE = 1e-2
Shape = tuple[int, int, int, int]


def with_token_aggregation(model: Exportable, shape: Shape, grid: tuple[int, int]) -> Exportable:
    """Return a model with the graph, and samples of it.

    `shape` is that of the features that names are read from, BxCxhxw, of which the last tokens are
    the patches on `grid`.
    """
    module = _module(shape, grid)

    def samples(photo: Path) -> list[Sample]:
        made = model.samples(photo)
        _, letterbox = resize_longest_side(
            load_image(photo), model.pixels.image_size, (model.pixels.first_canvas,)
        )
        encoded = next(sample.expected for sample in made if sample.graph == "encoder")
        features = encoded.get(NAME_FEATURES, encoded[BACKBONE])
        feeds = {NAME_FEATURES: features, "token_mask": letterbox.token_mask(max(grid))}
        with torch.inference_mode():
            found = module(*(torch.from_numpy(array) for array in feeds.values()))
        sample = Sample(AGGREGATION, photo.name, feeds, {AGGREGATED: found.numpy()}, TOLERANCE)
        return [*made, sample]

    graphs = (*model.graphs, aggregation_graph(shape, grid))
    return replace(model, graphs=graphs, samples=samples)


def aggregation_graph(shape: Shape, grid: tuple[int, int]) -> PlainGraph:
    """Return the graph: `name_features` 1xCxhxw and `token_mask` 1xgxg -> 1xCxhxw."""
    return PlainGraph(AGGREGATION, partial(_spec, shape, grid))


def _spec(shape: Shape, grid: tuple[int, int]) -> GraphSpec:
    inputs = {NAME_FEATURES: torch.rand(shape), "token_mask": torch.ones(1, *grid)}
    return GraphSpec(AGGREGATION, _module(shape, grid), inputs, (AGGREGATED,))


def _module(shape: Shape, grid: tuple[int, int]) -> TokenAggregation:
    return TokenAggregation(leading=shape[2] * shape[3] - grid[0] * grid[1])
