"""Calls of every kind in a random order that a seed fixes, and digests of their answers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samclip

NAMES = ("red", "green", "blue", "a cup of coffee", "wooden table")
SIZES = ((128, 200), (97, 61), (300, 256), (40, 260))  # (h, w) of the photos
EVERYTHING: Mapping[str, Any] = {
    "points_per_side": 3,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
}
LEFT_OUT = ("image", "timings")  # the caller's photo, and what differs from call to call
Ask = Callable[[samclip.Scene], object]


def photos() -> list[NDArray[np.uint8]]:
    """Make pictures of several shapes: HWC uint8 RGB, coloured blocks with noise."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in SIZES:
        blocks = rng.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
        picture = blocks.repeat(32, 0).repeat(32, 1)[:height, :width]
        noise = rng.integers(0, 32, picture.shape, np.uint8)
        made.append(np.minimum(picture, 255 - noise) + noise)
    return made


def _box(scene: samclip.Scene, share: float = 0.5) -> tuple[float, float, float, float]:
    height, width = scene.size
    return (width * 0.2, height * 0.2, width * (0.2 + share), height * (0.2 + share))


def _point(scene: samclip.Scene) -> tuple[float, float]:
    height, width = scene.size
    return (width * 0.4, height * 0.6)


def _mask(scene: samclip.Scene) -> NDArray[np.float32]:
    """Logits of a disc in the middle of the image: hxw float32."""
    rows, columns = scene.features.mask_size
    height, width = scene.features.letterbox.input_size
    unit = rows / scene.features.letterbox.canvas[0]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    away = np.hypot(x - width * unit / 2, y - height * unit / 2)
    return np.asarray(np.clip(min(height, width) * unit / 3 - away, -8, 8), np.float32)


def _inside(scene: samclip.Scene) -> NDArray[np.bool_]:
    mask = np.zeros(scene.size, np.bool_)
    mask[: scene.size[0] // 2, : scene.size[1] // 3] = True
    return mask


CALLS: dict[str, Ask] = {
    "classify": lambda s: s.classify(NAMES),
    "classify by templates": lambda s: s.classify(NAMES[:3], templates=["a photo of {}."]),
    "point": lambda s: s.segment(points=[_point(s)]),
    "points": lambda s: s.segment(points=[_point(s), (1, 1)], labels=[1, 0], multimask=True),
    "box": lambda s: s.segment(boxes=_box(s)),
    "boxes with names": lambda s: s.segment(boxes=[_box(s, 0.3), _box(s)] * 3, names=NAMES),
    "box and point": lambda s: s.segment(points=[[_point(s)]], boxes=[_box(s)]),
    "mask": lambda s: s.segment(mask=_mask(s), return_logits=True),
    "mask and point": lambda s: s.segment(points=[_point(s)], mask=_mask(s)),
    "names of masks": lambda s: s.name(_inside(s), NAMES),
    "semantic": lambda s: s.semantic(NAMES),
    "refined": lambda s: s.semantic(NAMES, refine=True, background=0.3),
    "everything": lambda s: s.everything(**EVERYTHING),
    "everything with names": lambda s: s.everything(NAMES, **EVERYTHING),
    "embeddings": lambda s: (s.image_embed, s.patch_embeds, s.image_embeddings),
}


@dataclass(frozen=True)
class Call:
    """A call of one kind on one photo; `fresh`: on a scene that is encoded for this call."""

    kind: str
    photo: int
    fresh: bool


def draw_calls(count: int, seed: int, fresh_share: float = 0.25) -> list[Call]:
    """Draw calls; no kind comes again before every kind has come."""
    rng = random.Random(seed)
    kinds = list(CALLS)
    calls = []
    for number in range(count):
        if number % len(kinds) == 0:
            rng.shuffle(kinds)
        photo = rng.randrange(len(SIZES))
        calls.append(Call(kinds[number % len(kinds)], photo, rng.random() < fresh_share))
    return calls


class Asker:
    """Makes calls to one model; all threads share its scenes."""

    def __init__(self, model: samclip.Model) -> None:
        self._model = model
        self._photos = photos()
        self._scenes = [model.encode(photo) for photo in self._photos]

    def ask(self, call: Call) -> str:
        """Make the call and return the digest of its answer."""
        if not call.fresh:
            return digest(CALLS[call.kind](self._scenes[call.photo]))
        with self._model.encode(self._photos[call.photo]) as scene:
            return digest(CALLS[call.kind](scene))

    def expected(self) -> dict[tuple[str, int], str]:
        """Answer every kind of call on every photo, one after the other."""
        return {
            (kind, photo): self.ask(Call(kind, photo, fresh=False))
            for kind in CALLS
            for photo in range(len(self._photos))
        }


def digest(answer: object) -> str:
    """Digest all that an answer holds, except its image and its timings."""
    digester = hashlib.sha256()
    for part in _parts(answer):
        digester.update(part)
    return digester.hexdigest()


def _parts(answer: object) -> Iterator[bytes]:
    if isinstance(answer, np.ndarray):
        yield f"{answer.dtype} {answer.shape}".encode()
        yield np.ascontiguousarray(answer).tobytes()
    elif is_dataclass(answer):
        for field in fields(answer):
            if field.name not in LEFT_OUT:
                yield field.name.encode()
                yield from _parts(getattr(answer, field.name))
    elif isinstance(answer, Sequence) and not isinstance(answer, str):
        for part in answer:
            yield from _parts(part)
    else:
        yield repr(answer).encode()
