"""A stand-in for a model whose scenes find the bright square of a frame."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.results.masks import Masks

SIZE = (48, 64)


def square(x: int, y: int, side: int = 12, level: int = 220) -> NDArray[np.uint8]:
    """A dark frame with a bright square whose upper left corner is at (x, y)."""
    image = np.full((*SIZE, 3), 20, np.uint8)
    image[y : y + side, x : x + side] = level
    return image


def masks_of(image: NDArray[np.uint8], masks: list[NDArray[np.bool_]], names: Any = None) -> Masks:
    """`Masks` with the names' first one for each."""
    vocabulary = getattr(names, "names", names)
    named: dict[str, Any] = {}
    if vocabulary is not None:
        named = {
            "vocabulary": tuple(vocabulary),
            "class_ids": np.zeros(len(masks), np.int64),
            "name_probabilities": np.ones(len(masks), np.float32),
            "trained_head": True,
        }
    return Masks(
        packed=PackedMasks.pack(masks, image.shape[:2]),
        scores=np.full(len(masks), 0.9, np.float32),
        boxes=np.asarray([mask_box(mask) for mask in masks], np.float32).reshape(-1, 4),
        prompt_index=np.arange(len(masks)),
        image=image,
        timings={"encode": 1.0, "prompts": 1.0},
        **named,
    )


class SquareScene:
    """Finds the square; `features` has an embedding for `region_embeddings`, two channels."""

    def __init__(
        self, model: SquareModel, image: NDArray[np.uint8], canvas: tuple[int, int] | None = None
    ) -> None:
        self.model, self.image = model, image
        self.canvas = canvas or model.bundle.canvases[0]
        pixels = self.canvas[0] * self.canvas[1]
        self.timings = {"encode": 1.0 if model.ms_a_pixel is None else model.ms_a_pixel * pixels}
        self.closed = False

    def __enter__(self) -> SquareScene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with self.model.lock:
                self.model.open_scenes -= 1

    def _find(self, names: Any) -> Masks:
        assert not self.closed
        time.sleep(self.model.answer_seconds)
        self.model.threads.add(("answer", threading.get_ident()))
        mask = self.image.mean(axis=2) > 128
        return masks_of(self.image, [mask] if mask.any() else [], names)

    def everything(self, names: Any = None, **options: Any) -> Masks:
        self.model.asked.append(options)
        return self._find(names)

    def segment(self, names: Any = None, **prompts: Any) -> Masks:
        self.model.asked.append(prompts)
        return self._find(names)

    def remember(self, masks: Masks) -> SimpleNamespace:
        return SimpleNamespace(count=len(masks))

    def follow(self, memory: SimpleNamespace, names: Any = None, *_: Any) -> Masks:
        mask = self.image.mean(axis=2) > 128
        assert memory.count == 1
        return masks_of(self.image, [mask], names)

    def name(self, masks: Masks, names: Any) -> Masks:
        return masks_of(self.image, list(masks.masks), names)

    @property
    def features(self) -> Any:
        from samclip.runtime.pixels.image import Letterbox

        level = cv2.resize(self.image.mean(axis=2).astype(np.float32), (64, 48))
        grid = np.zeros((1, 2, 64, 64), np.float32)
        grid[0, 0, :48] = level
        grid[0, 1, :48] = 255 - level
        return SimpleNamespace(
            image_embeddings=lambda: grid,
            letterbox=replace(Letterbox.fit(self.image.shape[:2], 64), canvas=self.canvas),
        )


class SquareModel:
    """Encodes in `encode_seconds`; counts scenes that are open at the same time.

    `canvases`: of its encoders; `ms_a_pixel`: what their scenes say that a pixel of them took.
    """

    def __init__(
        self,
        encode_seconds: float = 0.0,
        answer_seconds: float = 0.0,
        canvases: tuple[tuple[int, int], ...] = ((64, 64),),
        ms_a_pixel: float | None = None,
    ) -> None:
        self.encode_seconds, self.answer_seconds = encode_seconds, answer_seconds
        self.encoded = self.open_scenes = self.most_open = 0
        self.asked: list[dict[str, Any]] = []
        self.threads: set[tuple[str, int]] = set()
        self.lock = threading.Lock()
        self.manifest = SimpleNamespace(
            name="squares",
            head=SimpleNamespace(trained=True),
            clip_tower=None,
            preprocessing=SimpleNamespace(image_size=max(canvases[0])),
        )
        self.bundle = SimpleNamespace(canvases=canvases)
        self.ms_a_pixel = ms_a_pixel

    def encode(self, image: NDArray[np.uint8], *, aspects: str | None = None) -> SquareScene:
        time.sleep(self.encode_seconds)
        self.threads.add(("encode", threading.get_ident()))
        with self.lock:
            self.encoded += 1
            self.open_scenes += 1
            self.most_open = max(self.most_open, self.open_scenes)
        wide, _, high = (aspects or "").partition(":")
        return SquareScene(self, image, (int(high), int(wide)) if aspects else None)

    def vocabulary(self, names: Any, templates: Any = None) -> Any:
        from samclip.errors import VocabularyError

        if isinstance(names, SimpleNamespace):
            return names
        if isinstance(names, str) or not names:
            raise VocabularyError(f"no names: {names!r}")
        return SimpleNamespace(names=tuple(names))

    def watch(self, source: Any, names: Any = None, **options: Any) -> Any:
        """As `Model.watch`."""
        from samclip.runtime.model import Model

        return Model.watch(self, source, names, **options)  # type: ignore[arg-type]
