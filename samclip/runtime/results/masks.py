"""Masks as results: `Masks` and `AutoMasks`, and their export to COCO and `supervision`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import CapabilityError, InputError, brief
from samclip.json_text import finite
from samclip.runtime.photo import PHOTO, PhotoField, changed
from samclip.runtime.pixels.arrays import as_flag, as_whole
from samclip.runtime.pixels.mask_ops import PackedMasks, encode_rle
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.captions import Captions, check_captions
from samclip.runtime.results.coco_export import UNNAMED, coco_annotations
from samclip.runtime.results.drawing import (
    CROWD,
    NAME_LETTERS,
    draw_masks,
    pick_image,
    shorten,
)
from samclip.runtime.results.figure import Entry, Frame
from samclip.runtime.results.mask_files import write_masks
from samclip.runtime.results.palette import Colour, colour
from samclip.runtime.results.records import make_records, require_unpacked
from samclip.runtime.results.viewing import Viewable, describe_names, describe_size

SelfMasks = TypeVar("SelfMasks", bound="Masks")
# The fields that hold one entry per mask.
_PER_MASK = (
    "packed",
    "scores",
    "boxes",
    "prompt_index",
    "low_res_logits",
    "logits",
    "class_ids",
    "name_probabilities",
    "points",
    "stability_scores",
    "crop_boxes",
)


class MaskIndexError(InputError, IndexError):
    """There is no mask of this number."""


def choose_rows(key: Any, count: int) -> NDArray[np.intp]:
    """Return the rows among `count` that an index, a slice, or an array of N or of bool names.

    Raises MaskIndexError for numbers out of range, InputError for other keys.
    """
    if isinstance(key, slice):
        try:
            return np.arange(count)[key]
        except (TypeError, ValueError) as error:
            raise _wrong_key(key, count) from error
    try:
        array = np.asarray(None if isinstance(key, tuple) else key)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong_key(key, count) from error
    array = array.astype(np.intp) if array.shape == (0,) else array  # `[]` has no type
    if array.dtype == np.bool_ and array.shape == (count,):
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise _wrong_key(key, count)
    rows = np.atleast_1d(array)
    if outside := [int(row) for row in rows if not -count <= row < count]:
        raise MaskIndexError(
            f"there is no mask {outside[0]}; there are {count}. Use indices of at least {-count} "
            f"and below {count}."
        )
    return rows.astype(np.intp) % max(1, count)


def _wrong_key(key: Any, count: int) -> InputError:
    return InputError(
        f"masks are chosen by an index, a slice, a list of indices, or {count} bools, one for each "
        f"mask; got {brief(key)}, a {type(key).__name__}."
    )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Masks(Viewable):
    """N masks of an image, in pixels of the original; made by `Scene.segment` and `Scene.name`.

    `packed`: the masks as bits, which `masks` unpacks; `scores`: N float32, the IoU that the model
    predicts, about [0, 1] (Open-Vocabulary SAM predicts none: there the mean probability of the
    mask's pixels, in [0.5, 1], 0 for an empty mask); `boxes`: Nx4 float32 XYXY around each mask,
    x1 and y1 one past its last pixel, zeros for an empty mask; `prompt_index`: N int64, the index
    of the prompt that each mask answers; `low_res_logits`: Nxhxw float32, which can serve as the
    `mask` of a next prompt; `logits`: NxHxW float32, with `return_logits` only; `image`: the
    image, HWC uint8 RGB; `prompts`: the prompts, for drawing; `timings`: ms by stage, see
    `Scene.timings`.

    These are None when no names were given: `vocabulary`, the names; `class_ids`: N int64, indices
    into them; `name_probabilities`: N float32 in [0, 1]; `trained_head`: False when the CLIP head
    was never trained, so that the names mean nothing.

    `masks[i]`, with an index, a slice or an array, keeps some of the masks; `len(masks)` is N.
    Other keys raise InputError, and numbers out of range `MaskIndexError`. Notebooks show the
    picture of `draw`, with its legend.

    Examples:
        >>> masks = scene.segment(boxes=[(172, 17, 410, 308), (0, 0, 90, 90)])
        >>> len(masks), len(masks[0]), masks.best(1).areas.shape
        (2, 1, (1,))
        >>> [path.name for path in masks.save_masks(".", "coffee")]
        ['coffee.000.png', 'coffee.001.png']
    """

    packed: PackedMasks
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    prompt_index: NDArray[np.int64]
    image: PhotoField = PHOTO
    low_res_logits: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None
    vocabulary: tuple[str, ...] | None = None
    class_ids: NDArray[np.int64] | None = None
    name_probabilities: NDArray[np.float32] | None = None
    trained_head: bool | None = None
    prompts: tuple[Prompt, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """All masks, NxHxW bool: N * H * W bytes, unpacked on first use.

        Raises DeviceMemoryError where so much is not free; iterate over `packed` there.
        """
        require_unpacked(self.packed)
        return self.packed.unpack_all()

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask: N."""
        return self.packed.areas()

    @property
    def names(self) -> tuple[str, ...] | None:
        """The best name of each mask, or None when no names were given."""
        if self.vocabulary is None or self.class_ids is None:
            return None
        return tuple(self.vocabulary[i] for i in self.class_ids)

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The scores clipped to [0, 1]: N float32, NaN where no model predicted one.

        A predicted IoU may be slightly above 1. Where scores leave as confidences (`to_dict`,
        `to_coco`, `to_supervision`, captions), it is these; `scores` are the model's numbers.
        """
        return np.clip(self.scores, 0, 1)

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self: SelfMasks) -> Iterator[SelfMasks]:
        return (self[row] for row in range(len(self)))

    def __getitem__(
        self: SelfMasks,
        key: int | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_],
    ) -> SelfMasks:
        rows = choose_rows(key, len(self))
        chosen: dict[str, Any] = {}
        for name in _PER_MASK:
            value = getattr(self, name, None)  # some are of `AutoMasks` alone
            if value is not None:
                is_packed = isinstance(value, PackedMasks)
                chosen[name] = value.select(rows) if is_packed else value[rows]
        return changed(self, **chosen)

    def __repr__(self) -> str:
        masks = f"{len(self):,} mask{'' if len(self) == 1 else 's'}"
        of = f"{type(self).__name__}({masks} of {describe_size(self.packed.size)}"
        found = [name for name, *_ in self._count_names()]
        return f"{of}{': ' if found else ''}{describe_names(found)})"

    def best(self: SelfMasks, count: int) -> SelfMasks:
        """Return the `count` best masks, best first: by the names' probabilities, else by scores.

        Raises InputError when `count` is not a whole number of at least 1.
        """
        worth = self.scores if self.name_probabilities is None else self.name_probabilities
        order = np.argsort(-np.nan_to_num(worth, nan=-1), kind="stable")
        return self[order[: as_whole(count, "count", least=1)]]

    def draw(
        self,
        image: ArrayLike | None = None,
        *,
        captions: Captions = "names",
        top: int | None = None,
        legend: bool = False,
    ) -> NDArray[np.uint8]:
        """Draw masks, captions and prompts on `image`, None for the image itself: HWC uint8 RGB.

        A name has one colour, also in pictures of other images with the same names. `captions`:
        "names" for a caption on each mask that has a name, "all" for the scores of the others too,
        "none". A caption that would cover another one is left out, and where there are more than
        twelve masks, a name stands on its three largest only. `top`: draw the best masks only, see
        `best`. `legend`: list the names below the image, and enlarge an image of less than 160
        pixels; the picture is then larger than the image. Raises ImageError for an image of another
        size, InputError.
        """
        if top is not None:
            return self.best(top).draw(image, captions=captions, legend=legend)
        frame = Frame(pick_image(image, self.image), as_flag(legend, "legend"))
        shown = set(self.prompt_index.tolist())
        prompts = [prompt for index, prompt in enumerate(self.prompts) if index in shown]
        ids = self.class_ids
        picture = draw_masks(
            frame.image,
            frame.enlarge_masks(self.packed),
            self._choose_captions(check_captions(captions)),
            [prompt.scaled(frame.factor) for prompt in prompts],
            tints=None if ids is None else [colour(index) for index in ids.tolist()],
        )
        legend_of = [Entry(*found) for found in self._count_names()]
        return frame.finish(picture, legend_of, is_trained=self.trained_head is not False)

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        return self.draw(**{"legend": True} | options)

    def _count_names(self) -> list[tuple[str, str, Colour]]:
        """Return each name found, how many masks have it, as text if several, and its colour."""
        if self.vocabulary is None or self.class_ids is None:
            return []
        found, counts = np.unique(self.class_ids, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [
            (
                self.vocabulary[index],
                f"\N{MULTIPLICATION SIGN} {count:,}" if count > 1 else "",
                colour(index),
            )
            for index, count in zip(found[order].tolist(), counts[order].tolist(), strict=True)
        ]

    def _choose_captions(self, captions: Captions) -> Sequence[str]:
        """Return the text for each mask, empty for none; without probabilities in a crowd."""
        if captions == "none" or (captions == "names" and self.names is None):
            return [""] * len(self)
        if captions == "names" and self.names is not None and len(self) > CROWD:
            return [shorten(name, NAME_LETTERS) for name in self.names]
        return self.captions()

    def captions(self) -> tuple[str, ...]:
        """Return a caption for each mask: its name, shortened, and probability, or its score.

        The score is the confidence in [0, 1]; a mask that no model scored has an empty caption.
        """
        if self.names is None or self.name_probabilities is None:
            return tuple("" if np.isnan(score) else f"{score:.2f}" for score in self.confidences)
        pairs = zip(self.names, self.name_probabilities, strict=True)
        return tuple(f"{shorten(name, NAME_LETTERS)} {share:.0%}" for name, share in pairs)

    def save_masks(self, folder: str | os.PathLike[str], stem: str) -> list[Path]:
        """Write each mask as a PNG of 0 and 255, `FOLDER/STEM.000.png` and so on: N paths.

        See `write_masks`; raises InputError, WriteError.
        """
        return write_masks(self.packed, len(self), folder, stem)

    def to_coco(
        self,
        image_id: int = 0,
        *,
        first_id: int | None = None,
        categories: Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """List the masks as COCO annotations with compressed RLE; see `coco_annotations`.

        `image_id`: at least 0; `first_id`: the annotations count from it, None for ids that
        differ between answers; `categories`: the id of each name, None for its index plus 1.
        `write_coco` writes a whole file. Raises InputError.
        """
        return coco_annotations(self, image_id, first_id, categories)

    def to_supervision(self) -> Any:
        """Convert to `supervision.Detections`, with the class 0, "object", for masks without names.

        Takes N * H * W bytes. Raises CapabilityError when `supervision` is not installed.
        """
        return supervision_detections(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: one entry per mask, the pixels as COCO RLE.

        `score` is the confidence in [0, 1], None when no model predicted it.
        """
        names, probabilities, confidences = self.names, self.name_probabilities, self.confidences
        entries: list[dict[str, Any]] = []
        for row, mask in enumerate(self.packed):
            entry: dict[str, Any] = {
                "score": finite(confidences[row]),
                "box": [float(edge) for edge in self.boxes[row]],
                "area": int(self.areas[row]),
                "prompt_index": int(self.prompt_index[row]),
                "segmentation": encode_rle(mask),
            }
            if names is not None and probabilities is not None:
                entry["name"] = names[row]
                entry["probability"] = finite(probabilities[row])
            entries.append(entry)
        trained = {} if self.trained_head is None else {"trained_head": self.trained_head}
        return {"size": list(self.packed.size), "masks": entries, **trained}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AutoMasks(Masks):
    """The masks of everything in an image; made by `Scene.everything`.

    In addition to the fields of `Masks` there are those that SAM's generator records: `points`,
    Nx2 float64, the prompt (x, y) of each mask in pixels of the original image;
    `stability_scores`, N float32; `crop_boxes`, Nx4 int64 XYXY, the crop that each mask was found
    in. `prompt_index` counts the points in the order in which they were tried.

    Examples:
        >>> found = scene.everything(points_per_side=2)
        >>> sorted(found.records(rle=True)[0])[:3]
        ['area', 'bbox', 'crop_box']
    """

    points: NDArray[np.float64]
    stability_scores: NDArray[np.float32]
    crop_boxes: NDArray[np.int64]

    def records(self, *, rle: bool = False) -> list[dict[str, Any]]:
        """List the masks as `SamAutomaticMaskGenerator.generate` does, with its keys.

        `segmentation`: HxW bool, or COCO RLE when `rle`; `bbox`: XYWH, whose width and height are
        the distance from the first pixel to the last, as SAM counts; `crop_box`: XYWH. Without
        `rle` this takes N * H * W bytes; raises DeviceMemoryError where so much is not free.
        """
        return make_records(self, "coco_rle" if as_flag(rle, "rle") else "binary_mask")


def supervision_detections(masks: Masks) -> Any:
    """Build `supervision.Detections` of N masks: xyxy, mask, confidence, class_id, data.

    `data` has, for masks with names, "class_name" and "class_probability", the probability of each
    name among those given, N float32 in [0, 1]. Without names every mask has the class 0, "object",
    and no probability. The confidence is None when no model predicted a score. Raises
    CapabilityError when the package `supervision` is not installed.
    """
    try:
        import supervision  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CapabilityError(
            "this needs the package supervision. Install it: pip install 'samclip[supervision]'."
        ) from error
    unnamed = np.zeros(len(masks), np.int64)
    data: dict[str, Any] = {
        "class_name": np.asarray(masks.names or (UNNAMED,) * len(masks), dtype=str)
    }
    if masks.name_probabilities is not None:
        data["class_probability"] = masks.name_probabilities
    confidences = masks.confidences
    return supervision.Detections(
        xyxy=masks.boxes,
        mask=masks.masks,
        confidence=confidences if np.isfinite(confidences).all() else None,
        class_id=unnamed if masks.class_ids is None else masks.class_ids,
        data=data,
    )
