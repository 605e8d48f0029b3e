"""Samples: a photo or a frame with its objects, as every format takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.results.coco_export import UNNAMED
from samclip.runtime.results.masks import Masks


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """N objects of an image of size (H, W), none of them empty.

    `file_name`: the image as data sets list it, with forward slashes; `packed`: the masks;
    `boxes`: Nx4 float32 XYXY, x1 and y1 one past the last pixel; `confidences`: N float32 in
    [0, 1], NaN where no model predicted one; `vocabulary` and `class_ids`, N indices into it:
    None without names; `name_probabilities`: N float32 in [0, 1], None for label maps too;
    `tracks`: N whole numbers that frames of a stream share, None for none; `is_map`: whether the
    masks are the names of a label map, which do not overlap; `source`: the image's file, None
    where there is none; `answer`: what has the pixels.
    """

    file_name: str
    packed: PackedMasks
    boxes: NDArray[np.float32]
    confidences: NDArray[np.float32]
    vocabulary: tuple[str, ...] | None
    class_ids: NDArray[np.int64] | None
    name_probabilities: NDArray[np.float32] | None
    tracks: tuple[int, ...] | None
    is_map: bool
    source: Path | None
    answer: Masks | SemanticMap

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.packed.size

    @property
    def image(self) -> NDArray[np.uint8]:
        """The pixels, HWC uint8 RGB."""
        return self.answer.image

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each object: N."""
        return self.packed.areas()

    @property
    def names(self) -> tuple[str, ...] | None:
        """The name of each object, or None when no names were given."""
        if self.vocabulary is None or self.class_ids is None:
            return None
        return tuple(self.vocabulary[index] for index in self.class_ids)

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each object, "object" where no names were given."""
        return self.names or (UNNAMED,) * len(self)

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The names that objects could have got."""
        return self.vocabulary or (UNNAMED,)


def make_sample(file_name: Any, answer: Any, source: Path | None, tracks: Any) -> Sample:
    """Return the sample of an answer without its empty masks; raises InputError.

    A label map has one object for each name that it holds, with the mean probability of its pixels
    as confidence.
    """
    name = file_name.as_posix() if isinstance(file_name, Path) else file_name
    if not isinstance(name, str) or not name.strip():
        raise InputError(
            f"file_name must be the image's name, as 'street.jpg'; got {brief(file_name)}."
        )
    if isinstance(answer, SemanticMap):
        if tracks is not None:
            raise InputError("tracks belong to masks; the answer is a SemanticMap. Leave them out.")
        return _sample_of_map(name, answer, source)
    if not isinstance(answer, Masks):
        raise InputError(
            "an annotation is made from Masks or a SemanticMap, what segment, everything and "
            f"semantic return; got {type(answer).__name__}."
        )
    numbers = _check_tracks(tracks, len(answer))
    rows = np.flatnonzero(answer.areas > 0)
    kept = answer[rows]
    return Sample(
        file_name=name,
        packed=kept.packed,
        boxes=kept.boxes,
        confidences=kept.confidences,
        vocabulary=kept.vocabulary,
        class_ids=kept.class_ids,
        name_probabilities=kept.name_probabilities,
        tracks=None if numbers is None else tuple(numbers[row] for row in rows),
        is_map=False,
        source=source,
        answer=kept,
    )


def _sample_of_map(name: str, answer: SemanticMap, source: Path | None) -> Sample:
    found = np.flatnonzero(answer.areas > 0)
    height, width = answer.labels.shape
    masks = [np.asarray(answer.labels == index) for index in found]
    means = [answer.scores[mask].mean() for mask in masks]
    return Sample(
        file_name=name,
        packed=PackedMasks.pack(masks, (height, width)),
        boxes=np.asarray([mask_box(mask) for mask in masks], np.float32).reshape(-1, 4),
        confidences=np.clip(np.asarray(means, np.float32), 0, 1),
        vocabulary=answer.names,
        class_ids=found.astype(np.int64),
        name_probabilities=None,
        tracks=None,
        is_map=True,
        source=source,
        answer=answer,
    )


def _check_tracks(tracks: Any, count: int) -> list[int] | None:
    if tracks is None:
        return None
    try:
        numbers = np.asarray(tracks)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    numbers = numbers.astype(np.int64) if numbers.shape == (0,) == (count,) else numbers
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu":
        raise InputError(
            f"tracks must be {count} whole numbers, one for each mask; got {brief(tracks)}."
        )
    return [int(number) for number in numbers]
