"""Results for whole images: `Classification` and `SemanticMap`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import InputError
from samclip.json_text import finite
from samclip.runtime.results.drawing import UNTRAINED_NOTE, draw_bars, draw_label_map, pick_image
from samclip.runtime.results.mask_files import write_labels
from samclip.runtime.results.shares import in_percent
from samclip.runtime.text.vocabulary import index_of


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number of Python or numpy, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class Classification:
    """How well each of K names fits an image; made by `Scene.classify`.

    `probabilities`: K float32 in [0, 1] that sum to 1; `logits`: K float32, cosine times the
    logit scale; `trained_head`: False when the CLIP head was never trained, so that names and
    probabilities mean nothing; `image`: the image, HWC uint8 RGB.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    trained_head: bool
    image: NDArray[np.uint8] = field(repr=False)

    @property
    def best(self) -> str:
        """The name with the highest probability."""
        return self.names[int(self.logits.argmax())]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """List the `k` best names with their probabilities, best first; none for k below 1.

        Raises InputError when `k` is not a whole number.
        """
        return [(self.names[i], float(self.probabilities[i])) for i in self._rank(k)]

    def draw(self, image: ArrayLike | None = None, k: int = 5) -> NDArray[np.uint8]:
        """Draw the `k` best names as bars on `image`, None for the image itself: HWC uint8 RGB.

        Raises InputError when `k` is not a whole number, ImageError for another image's size.
        """
        note = None if self.trained_head else UNTRAINED_NOTE
        bars = in_percent(self.top(len(self.names)), decimals=1)[: len(self._rank(k))]
        return draw_bars(pick_image(image, self.image), bars, note)

    def _rank(self, k: int) -> NDArray[np.intp]:
        """Return the indices of the `k` best names, best first."""
        if not is_whole(k):
            raise InputError(f"k must be a whole number, as top(k=5); got {k!r:.60}.")
        return np.argsort(-self.logits, kind="stable")[: max(int(k), 0)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, best name first."""
        ranked = self.top(len(self.names))
        return {
            "best": self.best,
            "names": [name for name, _ in ranked],
            "probabilities": [finite(probability) for _, probability in ranked],
            "trained_head": self.trained_head,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class SemanticMap:
    """A name for every pixel of an image; made by `Scene.semantic`.

    `labels`: HxW int32, indices into the K `names`, -1 where the score is below the background
    threshold; `scores`: HxW float32 in [0, 1], the label's probability among the names (softmax
    per token, upscaled); `refined`: whether SAM's decoder drew the borders; `trained_head`: False
    when the CLIP head was never trained, so that the map means nothing; `image`: the image, HWC
    uint8 RGB.
    """

    labels: NDArray[np.int32]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    refined: bool
    trained_head: bool
    image: NDArray[np.uint8] = field(repr=False)

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each name: K."""
        return np.bincount(self.labels.reshape(-1) + 1, minlength=len(self.names) + 1)[1:]

    @property
    def present(self) -> tuple[str, ...]:
        """The names with at least one pixel, the largest area first."""
        areas = self.areas
        return tuple(self.names[i] for i in np.argsort(-areas, kind="stable") if areas[i])

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return the pixels of `name`, HxW bool; raises VocabularyError for an unknown name."""
        return np.asarray(self.labels == index_of(name, self.names))

    def draw(self, image: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Draw the map, with names, on `image`, None for the image itself: HWC uint8 RGB."""
        note = None if self.trained_head else UNTRAINED_NOTE
        return draw_label_map(pick_image(image, self.image), self.labels, self.names, note)

    def save_labels(self, path: str | os.PathLike[str]) -> Path:
        """Write the map as an index PNG: a pixel's value is its label, 255 for none.

        With more than 255 names the PNG has 16 bits, and 65535 for none; see `write_labels`.
        Raises ImageError, InputError, WriteError.
        """
        return write_labels(self.labels, len(self.names), path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: the size [h, w], and each present name's share."""
        areas = self.areas
        total = self.labels.size
        order = [i for i in np.argsort(-areas, kind="stable") if areas[i]]
        return {
            "size": list(self.labels.shape),
            "classes": [
                {
                    "name": self.names[i],
                    "index": int(i),
                    "area": int(areas[i]),
                    "fraction": float(areas[i] / total),
                    "mean_score": finite(self.scores[self.labels == i].mean()),
                }
                for i in order
            ],
            "unlabelled_area": int(total - areas.sum()),
            "refined": self.refined,
            "trained_head": self.trained_head,
        }
