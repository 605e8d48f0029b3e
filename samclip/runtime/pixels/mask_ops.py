"""Masks packed as bits, and the operations on masks and boxes of SAM's automatic mask generator.

Packed masks take an eighth of the memory of bool arrays. The operations follow the code of the
same purpose in segment-anything (`utils/amg.py`) or torchvision (`ops.nms`), and give the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

MASK_THRESHOLD = 0.0  # logits above it are foreground (segment-anything, `Sam.mask_threshold`)
# The number of bits set in each byte, 0 to 255.
_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """N masks of H x W pixels, one bit per pixel.

    `bits`: N x ceil(H * W / 8) uint8, each row a mask in C order as `numpy.packbits` writes it;
    `size`: (H, W).
    """

    bits: NDArray[np.uint8]
    size: tuple[int, int]

    @staticmethod
    def pack(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> PackedMasks:
        """Pack HxW bool masks of `size` one after the other."""
        rows = [np.packbits(mask) for mask in masks]
        width = (size[0] * size[1] + 7) // 8
        bits = np.stack(rows) if rows else np.zeros((0, width), np.uint8)
        return PackedMasks(bits, size)

    @staticmethod
    def concatenate(parts: Iterable[PackedMasks], size: tuple[int, int]) -> PackedMasks:
        """Join stacks of masks that all have `size`."""
        empty = PackedMasks.pack((), size)
        return PackedMasks(np.concatenate([empty.bits, *(part.bits for part in parts)]), size)

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self.unpack(row) for row in range(len(self)))

    def unpack(self, row: int) -> NDArray[np.bool_]:
        """Return one mask, HxW bool, freshly allocated."""
        height, width = self.size
        flat = np.unpackbits(self.bits[row], count=height * width)
        return flat.view(np.bool_).reshape(height, width)  # HxW

    def unpack_all(self) -> NDArray[np.bool_]:
        """Return every mask, NxHxW bool, freshly allocated: N * H * W bytes."""
        masks = np.empty((len(self), *self.size), np.bool_)
        for row, mask in enumerate(self):
            masks[row] = mask
        return masks

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> PackedMasks:
        """Keep the masks that an index array or a bool array of length N picks."""
        return PackedMasks(self.bits[rows], self.size)

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask: N."""
        counts = [int(_BITS_SET[row].sum(dtype=np.int64)) for row in self.bits]
        return np.asarray(counts, np.int64)


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode an HxW mask as COCO's compressed RLE: `size` [h, w] and `counts` as str."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1): the first and last column and row of an HxW mask, both inclusive.

    Zeros for an empty mask, as segment-anything's `batched_mask_to_box`.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return 0, 0, 0, 0
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def mask_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the XYXY box of pixel edges around an HxW mask: 4 float32.

    x1 and y1 are one past the last column and row, so that width times height counts pixels and
    the box can serve as a prompt. Zeros for an empty mask.
    """
    x0, y0, x1, y1 = mask_extent(mask)
    past = int(mask.any())
    return np.asarray([x0, y0, x1 + past, y1 + past], np.float32)


def nms(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], iou_threshold: float
) -> NDArray[np.intp]:
    """Suppress boxes that overlap a better one; return the kept boxes' indices, best first.

    `boxes`: Nx4 XYXY; `scores`: N. As in torchvision's `ops.nms`, a box is dropped when its IoU
    with a kept box is *above* the threshold, and equal scores keep their order.
    (`cv2.dnn.NMSBoxes` differs: it takes integer or XYWH boxes, drops by score first and compares
    with `>=`.)
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float32).reshape(-1, 4).T  # N each
    areas = (x1 - x0) * (y1 - y0)
    order = np.argsort(-np.asarray(scores), kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        width = np.minimum(x1[best], x1[order]) - np.maximum(x0[best], x0[order])
        height = np.minimum(y1[best], y1[order]) - np.maximum(y0[best], y0[order])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # two empty boxes: NaN, both stay
            iou = shared / (areas[best] + areas[order] - shared)
        order = order[~(iou.astype(np.float64) > iou_threshold)]
    return np.asarray(keep, np.intp)


def remove_small_regions(
    mask: NDArray[np.bool_], min_area: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes, or drop the islands, of fewer than `min_area` pixels in an HxW mask.

    Returns the mask and whether it changed. Regions are 8-connected; when every island is small
    the largest stays (segment-anything, `remove_small_regions`).
    """
    working = mask if mode == "islands" else ~mask
    _, regions, stats, _ = cv2.connectedComponentsWithStats(
        working.astype(np.uint8), connectivity=8
    )
    areas = stats[1:, cv2.CC_STAT_AREA]  # row 0 is the background of `working`
    small = areas < min_area
    if not small.any():
        return mask, False
    if mode == "holes":
        return np.concatenate([[True], small])[regions], True
    if small.all():
        small[np.argmax(areas)] = False
    return np.concatenate([[False], ~small])[regions], True


def near_crop_edge(
    boxes: NDArray[np.floating],
    crop_box: tuple[int, int, int, int],
    image_size: tuple[int, int],
    tolerance: float = 20.0,
) -> NDArray[np.bool_]:
    """Find the boxes that touch an edge of the crop which is not an edge of the image: N bool.

    `boxes`: Nx4 XYXY in pixels of the crop; `crop_box`: XYXY in pixels of the image;
    `image_size`: (h, w). To touch is to be within `tolerance` pixels (segment-anything,
    `is_box_near_crop_edge`).
    """
    x0, y0, _, _ = crop_box
    height, width = image_size
    placed = boxes + np.asarray([x0, y0, x0, y0], np.float32)
    at_crop = np.abs(placed - np.asarray(crop_box, np.float32)) <= tolerance
    at_image = np.abs(placed - np.asarray([0, 0, width, height], np.float32)) <= tolerance
    return np.asarray((at_crop & ~at_image).any(axis=1))


def stability_score(logits: NDArray[np.float32], offset: float) -> float:
    """Compute the IoU of the two masks at the threshold plus and minus `offset`.

    `logits`: HxW. The mask at the higher threshold lies inside the other, so the IoU is the
    quotient of their areas (segment-anything, `calculate_stability_score`). It is 0 when both are
    empty, where the original has NaN: neither passes a threshold above 0.
    """
    inner = np.count_nonzero(logits > MASK_THRESHOLD + offset)
    outer = np.count_nonzero(logits > MASK_THRESHOLD - offset)
    return float(np.float32(inner / outer)) if outer else 0.0


def foreground_confidence(
    logits: NDArray[np.float32], inside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Average the probability of each mask's foreground: BxM in [0.5, 1], 0 for an empty mask.

    `logits`: BxMxhxw; `inside`: hxw, the pixels that count. Mask2Former (Cheng et al. 2022)
    scores masks so in its public code (`instance_inference`). The range is that of a predicted
    IoU, but the score measures confidence, not accuracy: it was never fitted to an IoU.
    """
    foreground = (logits > MASK_THRESHOLD) & inside
    shares = 1 / (1 + np.exp(-np.maximum(logits, 0)))  # above 0 nothing overflows
    sums = np.where(foreground, shares, 0).sum(axis=(-2, -1), dtype=np.float64)
    counts = np.maximum(foreground.sum(axis=(-2, -1)), 1)
    return np.asarray(sums / counts, np.float32)
