"""Stand-ins for model and scene, so that commands are tested without graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from typer.testing import Result

from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.pixels.prompts import parse_prompts
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.masks import AutoMasks, Masks

SIZE = (24, 32)  # (h, w) of every image here

Run = Callable[..., Result]


class FakeScene:
    """A scene with fixed answers of the real result types; records its calls."""

    def __init__(self, model: FakeModel, image: np.ndarray) -> None:
        self.model, self.image, self.closed = model, image, False

    def __enter__(self) -> FakeScene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True

    def classify(self, names: list[str], **options: Any) -> Classification:
        self.model.calls.append(("classify", {"names": names, **options}))
        logits = np.arange(len(names), dtype=np.float32)
        return Classification(
            names=tuple(names),
            probabilities=np.exp(logits) / np.exp(logits).sum(),
            logits=logits,
            trained_head=self.model.trained,
            image=self.image,
        )

    def segment(self, *, names: list[str] | None = None, **options: Any) -> Masks:
        self.model.calls.append(("segment", {"names": names, **options}))
        prompt = {key: options.get(key) for key in ("points", "labels", "boxes")}
        prompts = parse_prompts(self.image.shape[:2], 256, **prompt)
        return Masks(**self.mask_fields(len(prompts), names), prompts=prompts)

    def everything(self, *, names: list[str] | None = None, **options: Any) -> AutoMasks:
        self.model.calls.append(("everything", {"names": names, **options}))
        count = self.model.found
        return AutoMasks(
            **self.mask_fields(count, names),
            points=np.full((count, 2), 4.0),
            stability_scores=np.full(count, 0.97, np.float32),
            crop_boxes=np.tile(np.asarray([0, 0, SIZE[1], SIZE[0]]), (count, 1)),
        )

    def semantic(self, names: list[str], **options: Any) -> SemanticMap:
        self.model.calls.append(("semantic", {"names": names, **options}))
        labels = np.zeros(SIZE, np.int32)
        labels[:, 16:] = min(1, len(names) - 1)
        return SemanticMap(
            labels=labels,
            names=tuple(names),
            scores=np.full(SIZE, 0.75, np.float32),
            refined=options["refine"],
            trained_head=self.model.trained,
            image=self.image,
        )

    def mask_fields(self, count: int, names: list[str] | None) -> dict[str, Any]:
        masks = np.zeros((count, *SIZE), np.bool_)
        masks[:, 4:12, 8:24] = True  # 8 x 16 = 128 pixels
        named: dict[str, Any] = {}
        if names is not None:
            named = {
                "vocabulary": tuple(names),
                "class_ids": np.zeros(count, np.int64),
                "name_probabilities": np.full(count, 0.5, np.float32),
                "trained_head": self.model.trained,
            }
        return named | {
            "packed": PackedMasks.pack(list(masks), SIZE),
            "scores": np.full(count, 0.875, np.float32),
            "boxes": np.tile(np.asarray([8, 4, 24, 12], np.float32), (count, 1)),
            "prompt_index": np.arange(count),
            "image": self.image,
        }


@dataclass
class FakeModel:
    """A model in place of the one that `samclip.load` returns."""

    trained: bool = True
    found: int = 3
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    loaded: dict[str, Any] = field(default_factory=dict)
    closed: bool = False

    @property
    def manifest(self) -> SimpleNamespace:
        head = SimpleNamespace(trained=self.trained)
        return SimpleNamespace(name="fake", head=head, clip_tower=None)

    def load(self, name: str, **options: Any) -> FakeModel:
        self.loaded = {"name": name, **options}
        return self

    def encode(self, path: Path) -> FakeScene:
        return FakeScene(self, load_image(path))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
