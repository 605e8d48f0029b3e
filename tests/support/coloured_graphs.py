"""The numpy model of `fakes` as ONNX graphs: small, but complete from photo to names.

The encoder averages 16x16 pixels, and then applies two convolutions that undo each other. The CLIP
head takes colours as embeddings. The mask decoder draws a disc around the mean of a prompt's
points, which for a box is a circle inside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from fakes import GRID, IMAGE_SIZE, MASK_SIZE, NAMES, RADII, STEEPNESS, fake_manifest
from numpy.typing import NDArray
from onnx import helper
from small_graphs import graph_files, small_graph

from samclip.export.graph_files import GraphFiles, described
from samclip.export.options import LOWERINGS_BY_BACKEND
from samclip.export.precision.draft_bundle import DraftBundle

HIDDEN = 32  # channels between the two convolutions


def coloured_graphs(gain: float = 1.0) -> list[GraphFiles]:
    """FP32 graphs; one hidden channel of the encoder is scaled by `gain`."""
    return [_encoder(gain), _clip_head(), _mask_decoder()]


def coloured_draft(graphs: list[GraphFiles], path: Path) -> DraftBundle:
    """A draft of a bundle with `graphs`, and with the colours' names as ready-made labels."""
    texts = {
        "labels.json": json.dumps(NAMES).encode(),
        "labels.bin": np.eye(3, dtype="<f4").tobytes(),
    }
    files = {name: data for graph in graphs for name, data in graph.files.items()}
    manifest = msgspec.structs.replace(fake_manifest(), graphs=described(graphs))
    return DraftBundle(path, manifest, {**texts, **files})


def _encoder(gain: float) -> GraphFiles:
    rng = np.random.default_rng(0)
    widening = rng.standard_normal((HIDDEN, 3)).astype(np.float32)
    narrowing = np.linalg.pinv(widening).astype(np.float32)
    widening[5] *= np.float32(gain)
    narrowing[:, 5] /= np.float32(gain)
    weights = {
        "widen.weight": widening[:, :, None, None],
        "narrow.weight": narrowing[:, :, None, None],
        "one": np.ones((1, 1, 1, 1), np.float32),
    }
    pool = {"kernel_shape": [16, 16], "strides": [16, 16]}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["means"], name="pool", **pool),
        helper.make_node("Conv", ["means", "widen.weight"], ["wide"], name="widen"),
        helper.make_node("Conv", ["wide", "narrow.weight"], ["backbone_features"], name="narrow"),
        helper.make_node("Add", ["backbone_features", "one"], ["image_embeddings"], name="shift"),
    ]
    grid = (1, 3, GRID, GRID)
    outputs = {"backbone_features": grid, "image_embeddings": grid}
    return _files("encoder", nodes, {"image": (1, 3, IMAGE_SIZE, IMAGE_SIZE)}, outputs, weights)


def _clip_head() -> GraphFiles:
    nodes = [
        helper.make_node("Mul", ["backbone_features", "token_mask"], ["inside"], name="inside"),
        helper.make_node("ReduceMax", ["inside", "axes"], ["most"], name="max", keepdims=0),
        helper.make_node("Mul", ["most", "favour"], ["image_embed"], name="favour"),
        helper.make_node("Neg", ["backbone_features"], ["opposite"], name="opposite"),
        helper.make_node("Neg", ["opposite"], ["patch_embeds"], name="patches"),
    ]
    grid = (1, 3, GRID, GRID)
    inputs = {"backbone_features": grid, "token_mask": (1, GRID, GRID)}
    outputs = {"image_embed": (1, 3), "patch_embeds": grid}
    padding = np.zeros(600, np.float32)  # a weights file needs a tensor
    favour = np.asarray([[1.0, 0.8, 0.6]], np.float32)  # a picture has all colours: no ties
    weights = {"axes": np.asarray([2, 3]), "favour": favour, "unused.weight": padding}
    return _files("clip_head", nodes, inputs, outputs, weights)


def _mask_decoder() -> GraphFiles:
    places = (np.arange(MASK_SIZE, dtype=np.float32) + 0.5) * 4
    x, y = np.meshgrid(places, places)
    weights = {
        "places.weight": np.stack([x, y], axis=-1)[None],  # 1xhxwx2
        "radii": np.asarray(RADII, np.float32).reshape(1, 4, 1, 1),
        "steepness": np.asarray(STEEPNESS, np.float32),
        "second": np.asarray([1]),
        "last": np.asarray([3]),
        "around": np.asarray([1, 2]),
        "sides": np.asarray([-1, 1, 1, 1]),
        "ious": np.asarray([[0.9, 0.7, 0.95, 0.8]], np.float32),
        "zeros": np.zeros((1, 4), np.float32),
        "flat": np.asarray([-1, 1]),
    }
    steps = [
        ("ReduceMean", ["point_coords", "second"], "middle", {"keepdims": 0}),  # Px2
        ("Unsqueeze", ["middle", "around"], "centre", {}),  # Px1x1x2
        ("Sub", ["places.weight", "centre"], "offset", {}),
        ("ReduceL2", ["offset", "last"], "distance", {"keepdims": 0}),  # Pxhxw
        ("Unsqueeze", ["distance", "second"], "distances", {}),
        ("Sub", ["radii", "distances"], "slopes", {}),  # Px4xhxw
        ("Mul", ["slopes", "steepness"], "discs", {}),
        ("Reshape", ["has_mask_input", "sides"], "has", {}),
        ("Mul", ["mask_input", "has"], "given", {}),
        ("Add", ["discs", "given"], "low_res_masks", {}),
        ("Reshape", ["has_mask_input", "flat"], "rows", {}),
        ("Mul", ["rows", "zeros"], "nothing", {}),
        ("Add", ["nothing", "ious"], "iou_predictions", {}),
        ("Neg", ["point_labels"], "unused", {}),
        ("Neg", ["image_embeddings"], "unused_too", {}),
    ]
    nodes = [helper.make_node(op, x, [out], name=out, **more) for op, x, out, more in steps]
    inputs: Mapping[str, tuple[int | str, ...]] = {
        "image_embeddings": (1, 3, GRID, GRID),
        "point_coords": ("prompts", "points", 2),
        "point_labels": ("prompts", "points"),
        "mask_input": ("prompts", 1, MASK_SIZE, MASK_SIZE),
        "has_mask_input": ("prompts",),
    }
    outputs: Mapping[str, tuple[int | str, ...]] = {
        "iou_predictions": ("prompts", 4),
        "low_res_masks": ("prompts", 4, MASK_SIZE, MASK_SIZE),
    }
    return _files("mask_decoder", nodes, inputs, outputs, weights)


def _files(
    name: str,
    nodes: list,  # type: ignore[type-arg]
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[int | str, ...]],
    weights: Mapping[str, NDArray[np.generic]],
) -> GraphFiles:
    made = graph_files(name, small_graph(name, nodes, inputs, outputs, weights))
    variant = msgspec.structs.replace(
        made.graph.variants[0], file=f"{name}.onnx", backends=tuple(LOWERINGS_BY_BACKEND)
    )
    files = {f.replace(".0.onnx", ".onnx"): data for f, data in made.files.items()}
    graph = msgspec.structs.replace(made.graph, variants=(variant,))
    return GraphFiles(name, graph, files)
