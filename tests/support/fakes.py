"""A small model without weights, whose answers can be worked out by hand.

Colours are meaning: the encoder averages 16x16 pixels, the CLIP head takes these as embeddings,
and the names "red", "green" and "blue" are the unit vectors. Boxes segment themselves, points
the disc around the mean of the foreground points.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from samclip.engines.base import (
    ArrayTensor,
    Engine,
    EngineOptions,
    GraphKey,
    GraphSource,
    Probe,
    Traits,
)
from samclip.errors import CapabilityError, ClosedError
from samclip.runtime.bundles.aspects import find_canvases, graphs_for
from samclip.runtime.bundles.manifest import (
    ClipHead,
    FileEntry,
    Graph,
    Graphs,
    Manifest,
    Preprocessing,
    Provenance,
    ShapedGraphs,
    TensorSpec,
    Text,
    Variant,
    base_name,
)
from samclip.runtime.model import Model

IMAGE_SIZE = 256
GRID = IMAGE_SIZE // 16
MASK_SIZE = GRID * 4
NAMES = ("red", "green", "blue")
RADII = (24.0, 12.0, 24.0, 48.0)  # of the decoder's four discs, in pixels of the input
IOUS = (0.9, 0.7, 0.95, 0.8)
STEEPNESS = 4.0  # logits per pixel of the input at a mask's edge


def encode(image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    rows, columns = (side // 16 for side in image.shape[2:])
    means = image.reshape(1, 3, rows, 16, columns, 16).mean((3, 5))  # 1x3xhxw
    return {"backbone_features": means, "image_embeddings": means + 1}


def clip_head(
    backbone_features: NDArray[np.float32], token_mask: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    inside = np.where(token_mask[:, None] > 0, backbone_features, -np.inf)
    return {"image_embed": inside.max((2, 3)), "patch_embeds": backbone_features}


def mask_decoder(
    image_embeddings: NDArray[np.float32],
    point_coords: NDArray[np.float32],
    point_labels: NDArray[np.float32],
    mask_input: NDArray[np.float32],
    has_mask_input: NDArray[np.float32],
) -> dict[str, NDArray[Any]]:
    prompts = zip(point_coords, point_labels, strict=True)
    size = mask_input.shape[2:]
    shapes = np.stack([_shape_logits(*prompt, size) for prompt in prompts])  # Bx4xhxw
    masks = shapes + mask_input * has_mask_input[:, None, None, None]
    iou = np.tile(np.asarray(IOUS, np.float32), (len(masks), 1))
    return {"iou_predictions": iou, "low_res_masks": masks.astype(np.float32)}


def _shape_logits(
    coords: NDArray[np.float32], labels: NDArray[np.float32], size: tuple[int, ...]
) -> NDArray[np.float32]:
    y, x = (np.indices(size) + 0.5) * 4
    if (labels == 2).any():
        (x0, y0), (x1, y1) = coords[labels == 2][0], coords[labels == 3][0]
        inside = np.minimum.reduce([x - x0, x1 - x, y - y0, y1 - y])
        return np.stack([inside * STEEPNESS] * 4)
    chosen = coords[labels == 1] if (labels == 1).any() else coords[labels == 0]
    if not len(chosen):
        return np.zeros((4, *size), np.float32)
    distance = np.hypot(x - chosen[:, 0].mean(), y - chosen[:, 1].mean())
    return np.stack([(radius - distance) * STEEPNESS for radius in RADII])


Computations = Mapping[str, Callable[..., dict[str, NDArray[Any]]]]
GRAPHS: Computations = {"encoder": encode, "clip_head": clip_head, "mask_decoder": mask_decoder}


@dataclass
class FakeEngine:
    """Counts its runs; `delay` seconds each."""

    name: str
    delay: float = 0.0
    graphs: Computations = field(default_factory=lambda: GRAPHS)
    batches: list[int] = field(default_factory=list)
    closed: bool = False
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def input_names(self) -> tuple[str, ...]:
        return ()

    @property
    def output_names(self) -> tuple[str, ...]:
        return ()

    def run(
        self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, ArrayTensor]:
        if self.closed:
            raise ClosedError("engine closed while in use")
        with self.lock:
            self.running += 1
            sized = next((feeds[name] for name in ("point_coords", "boxes") if name in feeds), [0])
            self.batches.append(len(sized))
        time.sleep(self.delay)
        arrays = {k: v if isinstance(v, np.ndarray) else v.numpy() for k, v in feeds.items()}
        if "image" in arrays:
            arrays["image"] = np.ascontiguousarray(arrays["image"], np.float32)
        results = self.graphs[base_name(self.name)](**arrays)
        with self.lock:
            self.running -= 1
        return {name: ArrayTensor(results[name]) for name in outputs or results}

    def close(self) -> None:
        assert self.running == 0, "closed while in use"
        self.closed = True


@dataclass
class FakeBackend:
    name: str = "fake"
    delay: float = 0.0
    traits: Traits = field(default_factory=Traits)
    graphs: Computations = field(default_factory=lambda: GRAPHS)
    engines: dict[str, FakeEngine] = field(default_factory=dict)

    def probe(self) -> Probe:
        return Probe(True, "numpy")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        assert {key.name for key in graphs} >= {"encoder"}
        return Probe(True, "numpy")

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        assert source.name not in self.engines, f"{source.name} loaded twice"
        time.sleep(self.delay)
        self.engines[source.name] = FakeEngine(source.name, self.delay, self.graphs)
        return self.engines[source.name]


IMAGE = TensorSpec(name="image", dtype="float32", shape=(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def _graph(*precisions: str, inputs: tuple[TensorSpec, ...] = ()) -> Graph:
    variants = tuple(
        Variant(file=f"{p}.onnx", precision=p, opset=18, backends=("fake",))  # type: ignore[arg-type]
        for p in precisions or ("fp32",)
    )
    return Graph(inputs=inputs, outputs=(), variants=variants)


def shaped_graphs(canvas: tuple[int, int], clip: bool = True) -> ShapedGraphs:
    """The graphs for one more shape of input."""
    image = TensorSpec(name="image", dtype="float32", shape=(1, 3, *canvas))
    return ShapedGraphs(
        canvas=canvas,
        encoder=_graph("fp32", "fp16", inputs=(image,)),
        mask_decoder=_graph(),
        clip_head=_graph() if clip else None,
    )


def fake_manifest(
    *,
    trained: bool = True,
    clip: bool = True,
    text: bool = True,
    canvases: tuple[tuple[int, int], ...] = (),
) -> Manifest:
    return Manifest(
        shapes=tuple(shaped_graphs(canvas, clip) for canvas in canvases) or UNSET,
        name="fake",
        model_type="fake",
        preprocessing=Preprocessing(
            image_size=IMAGE_SIZE, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)
        ),
        graphs=Graphs(
            encoder=_graph("fp32", "fp16", inputs=(IMAGE,)),
            mask_decoder=_graph(),
            clip_head=_graph() if clip else None,
        ),
        files={f"{p}.onnx": FileEntry(size=0, sha256="0" * 64) for p in ("fp32", "fp16")},
        provenance=Provenance(sources=(), samclip="0", torch="0", onnx="0"),
        clip_head=ClipHead(trained=trained, embed_dim=3, grid=GRID) if clip else None,
        text=Text(
            model="fake",
            space="0" * 64,
            embed_dim=3,
            logit_scale=10.0,
            templates=("{}",),
            labels="labels.json",
            label_embeddings="labels.bin",
        )
        if text
        else None,
    )


@dataclass(frozen=True)
class FakeBundle:
    manifest: Manifest
    path: Path = Path("fake")
    requested: list[tuple[str, str, str | None]] = field(default_factory=list)
    only: tuple[tuple[int, int], ...] | None = None

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        return self.manifest.canvases if self.only is None else self.only

    @property
    def graph_names(self) -> tuple[str, ...]:
        return graphs_for(self.manifest, self.canvases)

    def limited_to(self, aspects: str | Sequence[str] | None) -> FakeBundle:
        found = None if aspects is None else find_canvases(self.manifest, aspects)
        return replace(self, only=found)

    def read(self, name: str) -> bytes:
        if name == "labels.json":
            return json.dumps(NAMES).encode()
        if name == "labels.bin":
            return np.eye(3, dtype="<f4").tobytes()
        raise CapabilityError(name)

    def source(
        self, graph: str, backend: str, precision: str | None = None, version: str | None = None
    ) -> GraphSource:
        self.requested.append((graph, backend, precision))
        return GraphSource(graph, b"")

    def graph_key(self, graph: str, variant: Variant) -> GraphKey:
        return GraphKey(graph, "0" * 64, origin=str(self.path), precision=variant.precision)


def fake_model(
    *,
    delay: float = 0.0,
    trained: bool = True,
    clip: bool = True,
    text: bool = True,
    precision: str | None = None,
    streams: int = 1,
    canvases: tuple[tuple[int, int], ...] = (),
) -> Model:
    made = fake_manifest(trained=trained, clip=clip, text=text, canvases=canvases)
    bundle: Any = FakeBundle(made)
    return Model(bundle, FakeBackend(delay=delay), EngineOptions(streams=streams), precision)


def flag() -> NDArray[np.uint8]:
    """A 128x200 image (h, w) in three vertical bands: red, green, blue, 64, 72, 64 wide."""
    image = np.zeros((128, 200, 3), np.uint8)
    image[:, :64, 0] = 255
    image[:, 64:136, 1] = 255
    image[:, 136:, 2] = 255
    return image
