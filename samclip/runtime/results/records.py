"""Masks as the records of segment-anything's `SamAutomaticMaskGenerator`."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief, did_you_mean
from samclip.json_text import finite
from samclip.runtime.pixels.mask_ops import PackedMasks, encode_rle, mask_extent
from samclip.runtime.results.coco import unpack_counts
from samclip.runtime.room import require_memory

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]


class Found(Protocol):
    """What records need of `AutoMasks`."""

    @property
    def packed(self) -> PackedMasks: ...  # noqa: D102 - see AutoMasks
    @property
    def areas(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def scores(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def points(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def stability_scores(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def crop_boxes(self) -> NDArray[np.int64]: ...  # noqa: D102


def check_output_mode(mode: Any) -> OutputMode:
    """Return an output mode; InputError for anything but one of the three."""
    known: tuple[OutputMode, ...] = get_args(OutputMode)
    if isinstance(mode, str) and mode in known:
        return known[known.index(mode)]
    nearest = did_you_mean(mode, known) if isinstance(mode, str) else ""
    raise InputError(
        f"output_mode must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}; got "
        f"{brief(mode)}{nearest}."
    )


def make_records(found: Found, mode: OutputMode) -> list[dict[str, Any]]:
    """List N masks as records, see `SamAutomaticMaskGenerator.generate`.

    "binary_mask" takes N * H * W bytes; raises DeviceMemoryError where so much is not free.
    """
    if mode == "binary_mask":
        require_unpacked(found.packed)
    return [_make_record(found, row, mask, mode) for row, mask in enumerate(found.packed)]


def require_unpacked(masks: PackedMasks) -> None:
    """Check that N * H * W bytes are free; raises DeviceMemoryError."""
    needs = len(masks) * math.prod(masks.size)
    require_memory(needs, f"{len(masks):,} masks, a byte for each pixel,")


def _make_record(
    found: Found, row: int, mask: NDArray[np.bool_], mode: OutputMode
) -> dict[str, Any]:
    x0, y0, x1, y1 = mask_extent(mask)
    left, top, right, bottom = (int(edge) for edge in found.crop_boxes[row])
    return {
        "segmentation": _encode(mask, mode),
        "area": int(found.areas[row]),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "predicted_iou": finite(found.scores[row]),
        "point_coords": [[float(number) for number in found.points[row]]],
        "stability_score": finite(found.stability_scores[row]),
        "crop_box": [left, top, right - left, bottom - top],
    }


def _encode(mask: NDArray[np.bool_], mode: OutputMode) -> NDArray[np.bool_] | dict[str, Any]:
    if mode == "binary_mask":
        return mask
    rle = encode_rle(mask)
    if mode == "coco_rle":
        return rle
    return {"size": rle["size"], "counts": unpack_counts(rle["counts"]).tolist()}
