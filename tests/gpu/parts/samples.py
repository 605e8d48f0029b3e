"""A bundle's graphs with inputs from a real photo, and FP32's answers on the CPU."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import Row

from samclip.engines.base import EngineOptions
from samclip.engines.onnxruntime.backend import CPU
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import Graphs
from samclip.runtime.pixels.encoder_input import EncoderInput
from samclip.runtime.pixels.image import load_image, photo_paths

# Cosine of each output with FP32 on the CPU; BF16 is only shown.
LIMITS = {"fp32": 0.99999, "fp16": 0.9995, "bf16": None, "int8": 0.995, "int8_fp16": 0.995}

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Sample:
    """Inputs of a graph, and what FP32 on the CPU makes of them."""

    graph: str
    feeds: Feeds
    expected: Feeds


def open_bundle(options: Namespace) -> Bundle:
    return Bundle.open(find_bundle(options.bundle))


def samples(bundle: Bundle, options: Namespace) -> list[Sample]:
    """Return one sample for each graph of the bundle that is asked for."""
    photo = photo_paths(options.photos)[0]
    manifest = bundle.manifest
    form = EncoderInput.declared(manifest.graphs.encoder.inputs, manifest.preprocessing)
    feeds, letterbox = form.feeds(load_image(photo))
    found = [_sample(bundle, "encoder", feeds)]
    encoded = found[0].expected
    embeddings = encoded["image_embeddings"]
    found.append(_sample(bundle, "mask_decoder", _prompts(embeddings, letterbox.input_size)))
    head = bundle.manifest.clip_head
    if head is not None:
        mask = letterbox.token_mask(head.grid)
        feeds = {"backbone_features": encoded["backbone_features"], "token_mask": mask}
        found.append(_sample(bundle, "clip_head", feeds))
    if bundle.manifest.graphs.text_encoder is not None:
        found.append(_sample(bundle, "text_encoder", {"tokens": _tokens(bundle)}))
    return [one for one in found if one.graph in (options.graphs or Graphs.__struct_fields__)]


def compare(
    where: str, expected: Feeds, got: Mapping[str, Any], limit: float | None
) -> Iterator[Row]:
    """Cosine of each output, which is judged, and the largest error by the largest value."""
    for name, reference in expected.items():
        value = got[name].numpy()
        yield Row(f"{where}: {name} finite", int(np.isfinite(value).all()), "", 1)
        a, b = reference.astype(np.float64).ravel(), value.astype(np.float64).ravel()
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        yield Row(f"{where}: {name} cosine", float(a @ b) / norm if norm else 0.0, "", limit)
        worst = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        yield Row(f"{where}: {name} error / largest", worst)


def _sample(bundle: Bundle, graph: str, feeds: Feeds) -> Sample:
    source = bundle.source(graph, CPU.name, "fp32")
    with closing(CPU.load(source, EngineOptions())) as engine:
        return Sample(graph, feeds, {k: np.array(v.numpy()) for k, v in engine.run(feeds).items()})


def _prompts(embeddings: NDArray[Any], size: tuple[int, int]) -> Feeds:
    """Four prompts of one point each, padded as the runtime does, spread over the photo."""
    height, width = size
    places = np.array([[0.3, 0.3], [0.7, 0.3], [0.3, 0.7], [0.5, 0.5]], np.float32)
    points = np.stack([places * [width, height], np.zeros((4, 2))], 1).astype(np.float32)  # 4x2x2
    side = 4 * embeddings.shape[-1]
    return {
        "image_embeddings": embeddings,
        "point_coords": points,
        "point_labels": np.tile(np.array([1, -1], np.float32), (4, 1)),
        "mask_input": np.zeros((4, 1, side, side), np.float32),
        "has_mask_input": np.zeros(4, np.float32),
    }


def _tokens(bundle: Bundle) -> NDArray[np.int64]:
    graph = bundle.manifest.graphs.text_encoder
    length = graph.inputs[0].shape[-1] if graph is not None else 0
    size = length if isinstance(length, int) else 16
    return np.random.default_rng(0).integers(1, 400, (4, size))
