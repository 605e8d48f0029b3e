"""A bundle's graphs on the GPU's backends against FP32 on the CPU: accuracy and time."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu_half import compare
from gpu_report import Row, Skip
from numpy.typing import NDArray

from samclip.engines.base import Engine, EngineOptions
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import Graphs
from samclip.runtime.pixels.encoder_input import EncoderInput
from samclip.runtime.pixels.image import load_image

CPU = "onnxruntime"
LIMITS = {"fp32": 0.99999, "fp16": 0.9995, "bf16": None, "int8": 0.995, "int8_fp16": 0.995}
WARM_UP, TIMED = 5, 50

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Sample:
    """Inputs of a graph, and what FP32 on the CPU makes of them."""

    graph: str
    feeds: Feeds
    expected: Feeds


def check_ort_cuda(options: Namespace) -> Iterator[Row]:
    """ONNX Runtime's CUDA provider, every variant that it takes."""
    name = CPU if options.dry_run else "cuda"
    probe = get_backend(name).probe()
    if not probe.available:
        raise Skip(f"{probe.detail}. {probe.remedy}")
    bundle = open_bundle(options)
    for sample in samples(bundle, options):
        described = getattr(bundle.manifest.graphs, sample.graph)
        for variant in described.variants:
            if name not in variant.backends:
                continue
            source = bundle.source(sample.graph, name, variant.precision)
            with closing(get_backend(name).load(source, EngineOptions(device=options.device))) as e:
                yield from judge(f"{sample.graph} {variant.precision} {name}", e, sample, options)


def judge(where: str, engine: Engine, sample: Sample, options: Namespace) -> Iterator[Row]:
    """Accuracy of one engine on one sample, and its median time."""
    got = {name: tensor.numpy() for name, tensor in engine.run(sample.feeds).items()}
    precision = where.split()[1]
    in_order = [got[name] for name in sample.expected]
    yield from compare(where, sample.expected, in_order, LIMITS[precision])
    yield Row(
        f"{where}: median time, transfers included", milliseconds(engine, sample, options), "ms"
    )


def milliseconds(engine: Engine, sample: Sample, options: Namespace) -> float:
    """The median of many runs with host inputs and outputs, after a warm-up."""
    times = []
    for turn in range(2 if options.dry_run else WARM_UP + TIMED):
        begun = time.perf_counter()
        for tensor in engine.run(sample.feeds).values():
            tensor.numpy()
        if turn >= (0 if options.dry_run else WARM_UP):
            times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def open_bundle(options: Namespace) -> Bundle:
    return Bundle.open(find_bundle(options.bundle))


def samples(bundle: Bundle, options: Namespace) -> list[Sample]:
    """One sample for each graph of the bundle, from a real photo, by FP32 on the CPU."""
    from samclip.runtime.pixels.image import photo_paths

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
        tokens = _tokens(bundle)
        found.append(_sample(bundle, "text_encoder", {"tokens": tokens}))
    return [one for one in found if one.graph in (options.graphs or Graphs.__struct_fields__)]


def _sample(bundle: Bundle, graph: str, feeds: Feeds) -> Sample:
    source = bundle.source(graph, CPU, "fp32")
    with closing(get_backend(CPU).load(source, EngineOptions())) as engine:
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
