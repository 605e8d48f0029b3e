"""CLIP as the second model next to SAM: whole photos at 224 px, or every patch of a large pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.benchmarks.amortised.clip_vision import (
    IMAGE,
    IMAGE_EMBED,
    PATCH_EMBEDS,
    ClipVisionConfig,
    dense_size,
    make_clip_vision,
)
from samclip.benchmarks.roofline.count import GraphWork, count
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.engines.base import Backend, Engine, EngineOptions, GraphSource
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.text.vocabulary import unit_rows

WHOLE_SIZE = 224
MEAN = np.array([122.77, 116.75, 104.09], np.float32)  # OpenAI's, of [0, 255]
STD = np.array([68.5, 66.63, 70.32], np.float32)
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SecondModel:
    """CLIP's vision encoder on a backend; `names`: KxD float32, random unit rows in its space."""

    engine: Engine
    work: GraphWork
    image_size: int
    names: Floats

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def open_second(
    config: ClipVisionConfig, backend: Backend, options: EngineOptions, names: int, *, dense: bool
) -> SecondModel:
    """Make the graph and load it; raises CapabilityError without onnx, EngineError as `load`."""
    size = dense_size(config) if dense else WHOLE_SIZE
    data = make_clip_vision(config, size, dense=dense, fused=backend.traits.contrib_operators)
    name = f"clip_vision_{size}"
    work = count(read_graph(data, name))
    engine = backend.load(GraphSource(name, data), options)
    rows = np.random.default_rng(1).standard_normal((names, config.dim), np.float32)
    return SecondModel(engine, work, size, unit_rows(rows))


def classify_whole(model: SecondModel, image: NDArray[np.uint8]) -> Floats:
    """Return the cosines of a whole photo, HWC uint8 RGB, with K names: K float32.

    Resized by its short side, bicubic, and cropped to the centre, as OpenCLIP does.
    """
    tensor = _centre(image, model.image_size)
    embed = model.engine.run({IMAGE: tensor}, (IMAGE_EMBED,))[IMAGE_EMBED].numpy()
    return np.asarray(unit_rows(_array(embed))[0] @ model.names.T, np.float32)


def name_all(model: SecondModel, image: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.int32]]:
    """Classify a photo, HWC uint8 RGB, and label each pixel by one pass: K float32, HxW int32.

    The photo lies in the input as in SAM's. Cosines of each name are upscaled bilinearly, and the
    highest wins (SAM-CLIP section 4.2).
    """
    letterbox = Letterbox.fit((image.shape[0], image.shape[1]), model.image_size)
    results = model.engine.run({IMAGE: _boxed(image, letterbox)}, (IMAGE_EMBED, PATCH_EMBEDS))
    whole = unit_rows(_array(results[IMAGE_EMBED].numpy()))[0] @ model.names.T  # K
    tokens = unit_rows(_array(results[PATCH_EMBEDS].numpy())[0])  # NxD
    side = math.isqrt(len(tokens))
    cosines = (model.names @ tokens.T).reshape(-1, side, side)  # KxN -> Kxgxg
    best = np.full(letterbox.original_size, -np.inf, np.float32)
    labels = np.zeros(letterbox.original_size, np.int32)
    for index, one in enumerate(cosines):
        full = letterbox.upscale(one)
        better = full > best
        labels[better] = index
        np.copyto(best, full, where=better)
    return np.asarray(whole, np.float32), labels


def _centre(image: NDArray[np.uint8], size: int) -> Floats:
    scale = size / min(image.shape[:2])
    height, width = (max(size, round(side * scale)) for side in image.shape[:2])
    resized = np.asarray(Image.fromarray(image).resize((width, height), Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return _normalise(resized[top : top + size, left : left + size])


def _boxed(image: NDArray[np.uint8], letterbox: Letterbox) -> Floats:
    height, width = letterbox.input_size
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    padded = np.zeros((1, 3, letterbox.image_size, letterbox.image_size), np.float32)
    padded[:, :, :height, :width] = _normalise(np.asarray(resized, np.uint8))
    return padded


def _normalise(pixels: NDArray[np.uint8]) -> Floats:
    """Bring hxwx3 to 1x3xhxw."""
    scaled = (pixels.astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _array(values: NDArray[np.generic]) -> Floats:
    return np.asarray(values, np.float32)
