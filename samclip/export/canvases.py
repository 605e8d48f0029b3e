"""The shapes of input that a bundle has encoders for: asked for, or a family's default.

A shape is the (h, w) of an encoder's input, a canvas. Its longer side is the bundle's image size,
so that a photo has the same scale on each. The graphs for all canvases lie on the weights files of
the first one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from msgspec.structs import replace as replace_record

from samclip.errors import ExportError
from samclip.export.exportable import Exportable
from samclip.export.graph_files import GraphFiles, externalise
from samclip.export.graphs import GraphPlan
from samclip.export.verification import Sample
from samclip.runtime.bundles.manifest import MAX_SHAPES, Variant, base_name, shaped_name
from samclip.runtime.graph_outputs import IMAGE_KEYS, POINT_DECODER

AUTO = "auto"
DEFAULT_ASPECTS = ("1:1", "4:3", "16:9")
MAX_ASPECT = 16
# Graphs that share another one's weights, and lie on its weights file.
WEIGHTS_OF = {IMAGE_KEYS: "mask_decoder", POINT_DECODER: "mask_decoder"}
Size = tuple[int, int]


def parse_image_size(given: str | None) -> tuple[int | None, Size | None]:
    """Read "1024", or "HxW" such as "576x1024": the longer side, and the canvas where it is one.

    Raises ExportError for anything else.
    """
    if given is None:
        return None, None
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", given.strip())
    if match is None:
        raise ExportError(
            f"--imgsz takes a number of pixels, or height and width such as 576x1024; got {given!r}"
        )
    if match[2] is None:
        return int(match[1]), None
    canvas = int(match[1]), int(match[2])
    return max(canvas), canvas


def parse_aspects(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Check aspect ratios "W:H", each item one or several with commas.

    None given, and "auto" alone, is the family's default, which is returned as None. Raises
    ExportError for anything else.
    """
    if not given:
        return None
    found = [part.strip() for item in given for part in item.split(",") if part.strip()]
    if found == [AUTO]:
        return None
    for aspect in found:
        match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", aspect)
        sides = [int(side) for side in match.groups()] if match else [0]
        if min(sides) < 1 or max(sides) > MAX_ASPECT * min(sides):
            raise ExportError(
                f"--aspects takes width:height such as 4:3, at most {MAX_ASPECT}:1; got {aspect!r}"
            )
    return tuple(dict.fromkeys(found))


def canvases_of(
    model: Exportable, canvas: Size | None, aspects: Sequence[str] | None
) -> tuple[Size, ...]:
    """Return the canvases to export a model for, the first one first.

    `canvas`: the one that was asked for by its sides; `aspects`: width to height, where each stands
    for its portrait too. With neither, it is the square, and the family's default. Raises
    ExportError for a model that takes squares alone, and for sides that it cannot take.
    """
    side, shapes = model.pixels.image_size, model.shapes
    square = (side, side)
    if shapes is None:
        if canvas is not None or {*(aspects or ())} - {"1:1"}:
            raise ExportError(
                f"a bundle of this kind ({model.model_type}) takes squares alone; leave --aspects "
                "out, and give --imgsz one number"
            )
        return (square,)
    if aspects is None and canvas is None and shapes.default:
        aspects = DEFAULT_ASPECTS
    found = [square if canvas is None else canvas][: 0 if aspects and canvas is None else 1]
    for aspect in aspects or ():
        width, height = sorted((int(part) for part in aspect.split(":")), reverse=True)
        short = min(shapes.step * math.ceil(side * height / width / shapes.step), side)
        found += [(short, side), (side, short)]
    canvases = tuple(dict.fromkeys(found))
    if len(canvases) > MAX_SHAPES:
        raise ExportError(f"{len(canvases)} shapes are asked for; at most {MAX_SHAPES} work")
    return canvases


def at_canvases(model: Exportable, canvases: Sequence[Size]) -> list[Exportable]:
    """Return a model for each of these canvases, its graphs called as the manifest calls them."""
    found: list[Exportable] = []
    for canvas in canvases:
        is_own = canvas == model.pixels.first_canvas
        one = model if is_own or model.shapes is None else model.shapes.at(canvas)
        found.append(_shaped(one, canvas) if found else one)
    return found


def _shaped(model: Exportable, canvas: Size) -> Exportable:
    """Return a model whose graphs and samples have the names of further shapes."""

    def renamed(sample: Sample) -> Sample:
        return replace(sample, graph=shaped_name(sample.graph, canvas))

    return replace(
        model,
        graphs=tuple(_called(graph, shaped_name(graph.name, canvas)) for graph in model.graphs),
        samples=lambda photo: [renamed(sample) for sample in model.samples(photo)],
    )


def _called(graph: GraphPlan, name: str) -> GraphPlan:
    return replace(graph, name=name)


def share_weights_files(graphs: Sequence[GraphFiles]) -> list[GraphFiles]:
    """Return the graphs with one weights file for all shapes of each: that of the first shape.

    Graphs of another one's weights lie on the file of that one, see `weights_owner`.
    """
    groups: dict[str, list[GraphFiles]] = {}
    for files in graphs:
        groups.setdefault(weights_owner(files.name), []).append(files)
    shared: dict[str, GraphFiles] = {}
    for group in groups.values():
        shared |= {files.name: files for files in (group if len(group) == 1 else _share(group))}
    return [shared[files.name] for files in graphs]


def weights_owner(graph: str) -> str:
    """Return the field of `Graphs` whose weights a graph has: its own, or the mask decoder's."""
    base = base_name(graph)
    return WEIGHTS_OF.get(base, base)


def _share(group: Sequence[GraphFiles]) -> list[GraphFiles]:
    location = next(v.weights for files in group for v in files.graph.variants if v.weights)
    models = {name: model for files in group for name, model in files.models(None).items()}
    onnx_files, weights = externalise(models, location)

    def moved(variant: Variant) -> Variant:
        return replace_record(variant, weights=location)

    return [
        GraphFiles(
            files.name,
            replace_record(files.graph, variants=tuple(map(moved, files.graph.variants))),
            {v.file: onnx_files[v.file] for v in files.graph.variants} | {location: weights},
        )
        for files in group
    ]
