"""The fake model with two classifiers of regions in place of a CLIP head, as Open-Vocabulary SAM's.

The trained classifier says the colour inside the box. CLIP says the next one, green for red: so an
answer tells whose opinion counted.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from fakes import Computations, FakeBackend, FakeBundle, encode, fake_manifest, mask_decoder
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions
from samclip.runtime.bundles.manifest import Graph, Manifest, RegionHead, TensorSpec
from samclip.runtime.model import Model

LOGIT_SCALE = 10.0
PYRAMID = ("fpn_4", "fpn_8", "fpn_16", "fpn_32")
SHAPES: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(PYRAMID, (1, 3, 16, 16)),
    "c5": (1, 3, 8, 8),
    "boxes": ("regions", 4),
    "low_res_masks": ("regions", 1, 64, 64),
    "text": ("texts", 3),
}

Array = NDArray[np.float32]


def encode_levels(image: Array) -> dict[str, NDArray[Any]]:
    found = encode(image)
    means = found.pop("backbone_features")  # 1x3x16x16
    c5 = np.roll(means, 1, axis=1).reshape(1, 3, 8, 2, 8, 2).mean((3, 5))  # 1x3x8x8
    return {**found, **dict.fromkeys(PYRAMID, means), "c5": c5}


def one_mask(**feeds: Any) -> dict[str, NDArray[Any]]:
    return {"low_res_masks": mask_decoder(**feeds)["low_res_masks"][:, :1]}


def roi_classifier(boxes: Array, text: Array, **levels: Array) -> dict[str, NDArray[Any]]:
    assert set(levels) == set(PYRAMID)
    return {"logits": _logits(_means(levels["fpn_16"][0], boxes, 16), text)}


def clip_roi(c5: Array, boxes: Array, text: Array) -> dict[str, NDArray[Any]]:
    return {"clip_logits": _logits(_means(c5[0], boxes, 32), text)}


def clip_mask_pool(c5: Array, low_res_masks: Array, text: Array) -> dict[str, NDArray[Any]]:
    cells = low_res_masks[:, 0].reshape(-1, 8, 8, 8, 8).mean((2, 4)) > 0  # Nx64x64 -> Nx8x8
    return {"clip_logits": _logits(np.einsum("chw,nhw->nc", c5[0], cells), text)}


def _means(features: Array, boxes: Array, stride: int) -> Array:
    """Sum what lies inside each box, by area: NxC."""
    edges = np.arange(features.shape[-1]) * stride
    lows, highs = boxes[:, :2, None], boxes[:, 2:, None]  # Nx2x1
    shared = np.minimum(edges + stride, highs) - np.maximum(edges, lows)  # Nx2xg
    columns, rows = np.maximum(shared, 0).transpose(1, 0, 2)
    return np.einsum("chw,nh,nw->nc", features, rows, columns)


def _logits(vectors: Array, text: Array) -> Array:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(LOGIT_SCALE * (vectors / lengths) @ text.T, np.float32)


def _described(graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    specs = [
        tuple(TensorSpec(name=name, dtype="float32", shape=SHAPES.get(name, ())) for name in names)
        for names in (inputs, outputs)
    ]
    return msgspec.structs.replace(graph, inputs=specs[0], outputs=specs[1])


def region_manifest(*, trained: bool = True, pooled: bool = False) -> Manifest:
    manifest = fake_manifest()
    plain = manifest.graphs.mask_decoder
    where = "low_res_masks" if pooled else "boxes"
    graphs = msgspec.structs.replace(
        manifest.graphs,
        clip_head=None,
        mask_decoder=_described(plain, (), ("low_res_masks",)),
        roi_classifier=_described(plain, (*PYRAMID, "boxes", "text"), ("logits",)),
        clip_roi=_described(plain, ("c5", where, "text"), ("clip_logits",)),
    )
    head = RegionHead(trained=trained, embed_dim=3)
    return msgspec.structs.replace(manifest, graphs=graphs, clip_head=None, region_head=head)


REGION_GRAPHS: Computations = {
    "encoder": encode_levels,
    "mask_decoder": one_mask,
    "roi_classifier": roi_classifier,
    "clip_roi": clip_roi,
}


def region_model(*, trained: bool = True, pooled: bool = False) -> Model:
    """`pooled`: CLIP takes masks in place of boxes."""
    graphs = {**REGION_GRAPHS, "clip_roi": clip_mask_pool if pooled else clip_roi}
    bundle: Any = FakeBundle(region_manifest(trained=trained, pooled=pooled))
    return Model(bundle, FakeBackend(graphs=graphs), EngineOptions())
