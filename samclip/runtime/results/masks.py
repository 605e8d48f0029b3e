"""Masks as results: `Masks` and `AutoMasks`, and their export to COCO and `supervision`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import CapabilityError
from samclip.runtime.pixels.mask_ops import PackedMasks, encode_rle, mask_extent
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.drawing import (
    NAME_LETTERS,
    UNTRAINED_NOTE,
    draw_masks,
    pick_image,
    shorten,
)
from samclip.runtime.results.mask_files import write_masks

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Masks:
    """N masks of an image, in pixels of the original; made by `Scene.segment` and `Scene.name`.

    `packed`: the masks as bits, which `masks` unpacks; `scores`: N float32, the IoU that the model
    predicts, about [0, 1] (Open-Vocabulary SAM predicts none: there the mean probability of the
    mask's pixels, in [0.5, 1], 0 for an empty mask); `boxes`: Nx4 float32 XYXY around each mask,
    x1 and y1 one past its last pixel, zeros for an empty mask; `prompt_index`: N int64, the index
    of the prompt that each mask answers; `low_res_logits`: Nxhxw float32, which can serve as the
    `mask` of a next prompt; `logits`: NxHxW float32, with `return_logits` only; `image`: the
    image, HWC uint8 RGB; `prompts`: the prompts, for drawing.

    These are None when no names were given: `vocabulary`, the names; `class_ids`: N int64, indices
    into them; `name_probabilities`: N float32 in [0, 1]; `trained_head`: False when the CLIP head
    was never trained, so that the names mean nothing.

    `masks[i]`, with an index, a slice or an array, keeps some of the masks; `len(masks)` is N.
    """

    packed: PackedMasks = field(repr=False)
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    prompt_index: NDArray[np.int64]
    image: NDArray[np.uint8] = field(repr=False)
    low_res_logits: NDArray[np.float32] | None = field(default=None, repr=False)
    logits: NDArray[np.float32] | None = field(default=None, repr=False)
    vocabulary: tuple[str, ...] | None = None
    class_ids: NDArray[np.int64] | None = None
    name_probabilities: NDArray[np.float32] | None = None
    trained_head: bool | None = None
    prompts: tuple[Prompt, ...] = field(default=(), repr=False)

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """All masks, NxHxW bool: N * H * W bytes, unpacked on first use."""
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

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(
        self: SelfMasks, key: int | slice | NDArray[np.integer] | NDArray[np.bool_]
    ) -> SelfMasks:
        rows = np.atleast_1d(np.arange(len(self))[key])
        chosen: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name in _PER_MASK and value is not None:
                is_packed = isinstance(value, PackedMasks)
                chosen[name] = value.select(rows) if is_packed else value[rows]
        return replace(self, **chosen)

    def draw(self, image: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Draw masks, captions and prompts on `image`, None for the image itself: HWC uint8 RGB."""
        note = UNTRAINED_NOTE if self.trained_head is False else None
        shown = set(self.prompt_index.tolist())
        prompts = [prompt for index, prompt in enumerate(self.prompts) if index in shown]
        picture = pick_image(image, self.image)
        return draw_masks(picture, self.packed, self.captions(), prompts, note)

    def captions(self) -> tuple[str, ...]:
        """Return a caption for each mask: its name, shortened, and probability, or its score."""
        if self.names is None or self.name_probabilities is None:
            return tuple(f"{score:.2f}" for score in self.scores)
        pairs = zip(self.names, self.name_probabilities, strict=True)
        return tuple(f"{shorten(name, NAME_LETTERS)} {share:.0%}" for name, share in pairs)

    def save_masks(self, folder: str | os.PathLike[str], stem: str) -> list[Path]:
        """Write each mask as a PNG of 0 and 255, `FOLDER/STEM.000.png` and so on: N paths.

        See `write_masks`; raises InputError, WriteError.
        """
        return write_masks(self.packed, len(self), folder, stem)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """List the masks as COCO annotations with compressed RLE; see `coco_annotations`."""
        return coco_annotations(
            self.packed, self.boxes, self.scores, image_id, self.class_ids, self.names
        )

    def to_supervision(self) -> Any:
        """Convert to `supervision.Detections`; raises CapabilityError without `supervision`."""
        return supervision_detections(
            self.masks, self.boxes, self.scores, self.class_ids, self.names
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: one entry per mask, the pixels as COCO RLE."""
        entries: list[dict[str, Any]] = []
        for row, mask in enumerate(self.packed):
            entry = {
                "score": float(self.scores[row]),
                "box": [float(edge) for edge in self.boxes[row]],
                "area": int(self.areas[row]),
                "prompt_index": int(self.prompt_index[row]),
                "segmentation": encode_rle(mask),
            }
            if self.names is not None and self.name_probabilities is not None:
                entry["name"] = self.names[row]
                entry["probability"] = float(self.name_probabilities[row])
            entries.append(entry)
        trained = {} if self.trained_head is None else {"trained_head": self.trained_head}
        return {"size": list(self.packed.size), "masks": entries, **trained}


@dataclass(frozen=True, eq=False, kw_only=True)
class AutoMasks(Masks):
    """The masks of everything in an image; made by `Scene.everything`.

    In addition to the fields of `Masks` there are those that SAM's generator records: `points`,
    Nx2 float64, the prompt (x, y) of each mask in pixels of the original image;
    `stability_scores`, N float32; `crop_boxes`, Nx4 int64 XYXY, the crop that each mask was found
    in. `prompt_index` counts the points in the order in which they were tried.
    """

    points: NDArray[np.float64]
    stability_scores: NDArray[np.float32]
    crop_boxes: NDArray[np.int64]

    def records(self, *, rle: bool = False) -> list[dict[str, Any]]:
        """List the masks as `SamAutomaticMaskGenerator.generate` does, with its keys.

        `segmentation`: HxW bool, or COCO RLE when `rle`; `bbox`: XYWH, whose width and height are
        the distance from the first pixel to the last, as SAM counts; `crop_box`: XYWH.
        """
        return [self._record(row, mask, rle) for row, mask in enumerate(self.packed)]

    def _record(self, row: int, mask: NDArray[np.bool_], rle: bool) -> dict[str, Any]:
        x0, y0, x1, y1 = mask_extent(mask)
        left, top, right, bottom = (int(edge) for edge in self.crop_boxes[row])
        return {
            "segmentation": encode_rle(mask) if rle else mask,
            "area": int(self.areas[row]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": float(self.scores[row]),
            "point_coords": [[float(number) for number in self.points[row]]],
            "stability_score": float(self.stability_scores[row]),
            "crop_box": [left, top, right - left, bottom - top],
        }


def coco_annotations(
    masks: PackedMasks,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    image_id: int,
    class_ids: NDArray[np.int64] | None = None,
    names: tuple[str, ...] | None = None,
) -> list[dict[str, Any]]:
    """List N masks as COCO annotations, ready for JSON and for pycocotools.

    `segmentation` is compressed RLE with `counts` as str, `bbox` is XYWH in pixels, `category_id`
    is the name's index in the vocabulary plus 1, or 1 without names, and `id` counts from 1.
    """
    annotations = []
    for row, mask in enumerate(masks):
        x0, y0, x1, y1 = (float(edge) for edge in boxes[row])
        annotation = {
            "id": row + 1,
            "image_id": image_id,
            "category_id": 1 if class_ids is None else int(class_ids[row]) + 1,
            "segmentation": encode_rle(mask),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(np.count_nonzero(mask)),
            "iscrowd": 0,
            "score": float(scores[row]),
        }
        if names is not None:
            annotation["category_name"] = names[row]
        annotations.append(annotation)
    return annotations


def supervision_detections(
    masks: NDArray[np.bool_],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64] | None = None,
    names: tuple[str, ...] | None = None,
) -> Any:
    """Build `supervision.Detections`: xyxy, mask, confidence, class_id, data["class_name"].

    `masks`: NxHxW. Raises CapabilityError when the package `supervision` is not installed.
    """
    try:
        import supervision  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CapabilityError(
            "this needs the package supervision. Install it: pip install 'samclip[supervision]'."
        ) from error
    data: dict[str, Any] = {} if names is None else {"class_name": np.asarray(names, dtype=str)}
    return supervision.Detections(
        xyxy=boxes, mask=masks, confidence=scores, class_id=class_ids, data=data
    )
