"""Masks in other people's formats: COCO annotations, `supervision` detections."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import CapabilityError
from samclip.runtime.results.packed_masks import PackedMasks
from samclip.runtime.tasks.mask_ops import encode_rle


def coco_annotations(
    masks: PackedMasks,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    image_id: int,
    class_ids: NDArray[np.int64] | None = None,
    names: tuple[str, ...] | None = None,
) -> list[dict[str, Any]]:
    """List N masks as COCO annotations, ready for JSON and for pycocotools.

    `segmentation` is compressed RLE with `counts` as str, `bbox` XYWH in pixels, `category_id`
    one more than the name's place in the vocabulary, 1 without names, `id` counts from 1.
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
