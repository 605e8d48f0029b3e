"""Results for whole images: `Classification` and `SemanticMap`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import VocabularyError, brief
from samclip.json_text import finite
from samclip.runtime.photo import PHOTO, PhotoField
from samclip.runtime.pixels.arrays import as_flag, as_whole
from samclip.runtime.results.captions import Captions, check_captions
from samclip.runtime.results.drawing import (
    SMALL,
    draw_bars,
    draw_label_map,
    pick_image,
    shorten,
)
from samclip.runtime.results.figure import Entry, Frame
from samclip.runtime.results.mask_files import write_labels
from samclip.runtime.results.palette import NO_NAME, colour
from samclip.runtime.results.shares import in_percent
from samclip.runtime.results.viewing import Viewable, describe_names, describe_size
from samclip.runtime.text.names import index_of

NAMELESS = "no name"  # of pixels without a label, in legends


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Classification(Viewable):
    """How well each of K names fits an image; made by `Scene.classify`.

    `probabilities`: K float32 in [0, 1] that sum to 1; `logits`: K float32, cosine times the
    logit scale, and the head's `image_confidence` if it has one; `trained_head`: False when the
    CLIP head was never trained, so that names and probabilities mean nothing; `image`: the image,
    HWC uint8 RGB; `timings`: ms by stage, see `Scene.timings`.

    Examples:
        >>> answer = scene.classify(["a cup of coffee", "a cat"])
        >>> [name for name, _ in answer.top(2)]
        ['a cup of coffee', 'a cat']
        >>> answer.save("answer.png").name
        'answer.png'
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    trained_head: bool
    image: PhotoField = PHOTO
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The name with the highest probability."""
        return self.names[int(self.logits.argmax())]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """List the `k` best names with their probabilities, best first; none for k below 1.

        Raises InputError when `k` is not a whole number.
        """
        return [(self.names[i], float(self.probabilities[i])) for i in self._rank(k)]

    def __repr__(self) -> str:
        ranked = in_percent(self.top(len(self.names)))
        found = describe_names(f"{shorten(name, 24)} {text}" for name, _, text in ranked[:3])
        count = f"{len(self.names):,} name{'' if len(self.names) == 1 else 's'}"
        return f"Classification({count}: {found})"

    def draw(
        self, image: ArrayLike | None = None, k: int = 5, *, legend: bool = False
    ) -> NDArray[np.uint8]:
        """Draw the `k` best names as bars on `image`, None for the image itself: HWC uint8 RGB.

        `legend`: draw the bars below the image instead, and enlarge an image of less than 160
        pixels; the picture is then larger than the image. Raises InputError when `k` is not a whole
        number, ImageError for another image's size.
        """
        frame = Frame(pick_image(image, self.image), as_flag(legend, "legend"))
        bars = in_percent(self.top(len(self.names)), decimals=1)[: len(self._rank(k))]
        if not legend:
            return frame.finish(draw_bars(frame.image, bars), (), self.trained_head)
        tint = colour(0)
        entries = [Entry(name, text, tint, share) for name, share, text in bars]
        return frame.finish(frame.image, entries, self.trained_head)

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        return self.draw(**{"legend": True} | options)

    def _rank(self, k: int) -> NDArray[np.intp]:
        """Return the indices of the `k` best names, best first."""
        count = max(0, as_whole(k, "k", least=-sys.maxsize))
        return np.argsort(-self.logits, kind="stable")[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, best name first."""
        ranked = self.top(len(self.names))
        return {
            "best": self.best,
            "names": [name for name, _ in ranked],
            "probabilities": [finite(probability) for _, probability in ranked],
            "trained_head": self.trained_head,
        }


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SemanticMap(Viewable):
    """A name for every pixel of an image; made by `Scene.semantic`.

    `labels`: HxW int32, indices into the K `names`, -1 where the score is below the background
    threshold; `scores`: HxW float32 in [0, 1], the label's probability among the names (softmax
    per token, upscaled); `refined`: whether SAM's decoder drew the borders; `trained_head`: False
    when the CLIP head was never trained, so that the map means nothing; `image`: the image, HWC
    uint8 RGB; `timings`: ms by stage, see `Scene.timings`.

    Examples:
        >>> labels = scene.semantic(["cup of coffee", "cat"])
        >>> labels.mask("cup of coffee").dtype, labels.areas.sum() == 400 * 600
        (dtype('bool'), np.True_)
        >>> labels.save_labels("labels.png").name
        'labels.png'
    """

    labels: NDArray[np.int32]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    refined: bool
    trained_head: bool
    image: PhotoField = PHOTO
    timings: Mapping[str, float] = field(default_factory=dict)

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
        if not isinstance(name, str):
            raise VocabularyError(f"a name is text; got {brief(name)}, a {type(name).__name__}.")
        return np.asarray(self.labels == index_of(name, self.names))

    def __repr__(self) -> str:
        shares = in_percent((name, share) for name, share in self._shares())
        found = describe_names(f"{shorten(name, 24)} {text}" for name, _, text in shares)
        size = describe_size((self.labels.shape[0], self.labels.shape[1]))
        return f"SemanticMap({size}: {found or 'no name'})"

    def _shares(self) -> list[tuple[str, float]]:
        """Return each present name's share of the pixels, in [0, 1], the largest first."""
        areas = dict(zip(self.names, self.areas.tolist(), strict=True))
        return [(name, areas[name] / self.labels.size) for name in self.present]

    def draw(
        self,
        image: ArrayLike | None = None,
        *,
        captions: Captions = "names",
        legend: bool = False,
    ) -> NDArray[np.uint8]:
        """Draw the map on `image`, None for the image itself: HWC uint8 RGB.

        A name has one colour, also in maps of other images with the same names. `captions`: "names"
        writes each name on its region unless that is small, "all" on all regions, "none" on none; a
        caption that would cover another one is left out. `legend`: list the names and their shares
        of the pixels below the image, and enlarge an image of less than 160 pixels; the picture is
        then larger than the image. Raises ImageError for an image of another size, InputError.
        """
        frame = Frame(pick_image(image, self.image), as_flag(legend, "legend"))
        shares = dict(self._shares())
        least = {"names": SMALL, "all": 0.0, "none": 2.0}[check_captions(captions)]
        names = [name if shares.get(name, 0) >= least else "" for name in self.names]
        picture = draw_label_map(frame.image, frame.enlarge(self.labels), names)
        entries = [
            Entry(name, text, colour(index_of(name, self.names)))
            for name, _, text in in_percent(shares.items(), decimals=1)
        ]
        if rest := int((self.labels < 0).sum()):
            entries.append(Entry(NAMELESS, f"{rest / self.labels.size:.1%}", NO_NAME))
        return frame.finish(picture, entries, self.trained_head)

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        return self.draw(**{"legend": True} | options)

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
